//! Finds virtio disks by the serial that the host gave them, because their names depend on the order of discovery.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::Part;

use crate::boot;

/// A disk is found while its driver loads; only a guest that gets hardly any processor time needs this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for the device with this serial, and returns its path.
pub(crate) fn find(serial: &str) -> Result<String, String> {
    boot::load_part(Part::Disk);
    let start = Instant::now();
    loop {
        if let Some(name) = with_serial(Path::new("/sys/block"), serial) {
            return Ok(format!("/dev/{name}"));
        }
        if start.elapsed() > DEADLINE {
            return Err(format!("no virtio disk with the serial {serial:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn with_serial(disks: &Path, serial: &str) -> Option<String> {
    fs::read_dir(disks).ok()?.flatten().find_map(|disk| {
        let text = fs::read_to_string(disk.path().join("serial")).ok()?;
        (text.trim_end() == serial).then(|| disk.file_name().to_string_lossy().into_owned())
    })
}
