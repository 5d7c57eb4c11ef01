//! The messages for a guest's warnings.

use guest_protocol::Warning;

/// Returns one line for the user that says what to do. `keeps` says that the machine writes to its own disk.
pub(super) fn text(warning: &Warning, keeps: bool) -> String {
    let place = if keeps { "the disk for the guest's writes" } else { "the memory for the guest's writes" };
    let remedy = if keeps { "make the machine again with a larger --keep" } else { "give it more with --tmpfs-size" };
    match warning {
        Warning::MemoryRanOut { process } => format!(
            "the guest's memory ran out and its kernel killed {}; give it more with --memory",
            printable(process)
        ),
        Warning::WritesFull { bytes } => format!("{place} is full ({}); {remedy}", size(*bytes)),
        Warning::FilesFull { files } => format!("{place} has no room for more than {files} files; {remedy}"),
        Warning::SharedMemoryFull { bytes } => {
            format!("the guest's /dev/shm is full ({}); give the guest more memory with --memory", size(*bytes))
        }
        Warning::ThreadsFull { threads } => format!(
            "the guest has nearly as many processes and threads as its kernel allows ({threads}); more memory, with \
             --memory, allows more"
        ),
        Warning::OpenFilesFull => {
            "the guest has as many files open as its kernel allows; more memory, with --memory, allows more".to_owned()
        }
        Warning::DiskFailed { cause } => format!("the guest cannot use a disk: {}", printable(cause)),
        Warning::Missing { cause } => {
            format!("the guest runs, but something in it could not be set up: {}", printable(cause))
        }
    }
}

/// Makes a guest's text safe for a terminal and short enough for a line.
fn printable(text: &str) -> String {
    layer_store::printable::line(&text.chars().take(200).collect::<String>()).into_owned()
}

/// Formats a size as `--tmpfs-size` reads it, rounded down.
fn size(bytes: u64) -> String {
    let kib = bytes >> 10;
    if kib < 1 << 10 { format!("{kib}K") } else { format!("{}M", kib >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_named_with_what_raises_it() {
        for (warning, keeps, remedy) in [
            (Warning::MemoryRanOut { process: "sh".into() }, false, "killed sh; give it more with --memory"),
            (Warning::WritesFull { bytes: 8 << 20 }, false, "full (8M); give it more with --tmpfs-size"),
            (Warning::WritesFull { bytes: 10 << 30 }, true, "disk for the guest's writes is full (10240M); make"),
            (Warning::FilesFull { files: 7 }, false, "more than 7 files; give it more with --tmpfs-size"),
            (Warning::FilesFull { files: 7 }, true, "with a larger --keep"),
            (
                Warning::SharedMemoryFull { bytes: 512 << 10 },
                false,
                "/dev/shm is full (512K); give the guest more memory",
            ),
            (Warning::ThreadsFull { threads: 9 }, false, "allows (9); more memory, with --memory"),
            (Warning::OpenFilesFull, false, "with --memory"),
        ] {
            let told = text(&warning, keeps);
            assert!(told.contains(remedy), "{told}");
        }
    }

    #[test]
    fn a_guest_reaches_no_terminal_with_what_it_says() {
        let told = text(&Warning::MemoryRanOut { process: "a\u{1b}[2J\nb".into() }, false);
        assert!(told.contains("a\\x1b[2J\\nb") && !told.contains('\u{1b}'), "{told}");
        assert!(text(&Warning::DiskFailed { cause: "x".repeat(10_000) }, false).len() < 300);
    }
}
