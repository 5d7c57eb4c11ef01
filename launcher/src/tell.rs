//! What is said to people on standard error.

/// Prints a line on standard error, as `eprintln!` does, but does not panic where it cannot be written: a machine and a mount
/// outlive the disk that is full of their log, and whoever stopped reading it.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        // There is nobody else to tell.
        let _ = std::io::stderr().lock().write_all(format!("{}\n", format_args!($($words)*)).as_bytes());
    }};
}
