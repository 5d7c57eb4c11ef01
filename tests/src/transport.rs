//! The transports that a mount's requests can take to the server.
//!
//! [`on_transports`](crate::on_transports) makes one test of a function for each: `reading::mapping_is_private_or_read_only::fuser`.

use std::cell::Cell;

use test_support::RingsOn;

/// What carries the kernel's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Our own loop over `/dev/fuse`, the default on Linux.
    #[default]
    Device,
    /// The same over io_uring, which is switched on for the host while a mount is made.
    Rings,
    /// The crate `fuser`, as on a Mac: `lamina mount --transport fuser`.
    Fuser,
}

thread_local! {
    static CURRENT: Cell<Transport> = const { Cell::new(Transport::Device) };
}

impl Transport {
    /// Runs a test whose sessions mount by this transport.
    pub fn during(self, test: impl FnOnce()) {
        if self == Self::Rings && RingsOn::new().is_none() {
            eprintln!("nothing to test: this kernel has no FUSE over io_uring, or this user cannot switch it on");
            return;
        }
        CURRENT.set(self);
        test();
    }

    /// The word for it after `--transport`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Device | Self::Rings => "device",
            Self::Fuser => "fuser",
        }
    }

    /// The transport of this thread's test.
    pub(crate) fn current() -> Self {
        CURRENT.get()
    }
}

/// Makes two tests of each function that is named: by our own loop over `/dev/fuse`, and by `fuser`.
#[macro_export]
macro_rules! on_transports {
    ($($test:ident),+ $(,)?) => { $( $crate::by_transports!($test: device Device, fuser Fuser); )+ };
}

/// Makes tests of each function that is named: one for each [`Transport`].
#[macro_export]
macro_rules! on_every_transport {
    ($($test:ident),+ $(,)?) => { $( $crate::by_transports!($test: device Device, io_uring Rings, fuser Fuser); )+ };
}

/// Makes a test of a function for each [`Transport`] that is named.
#[doc(hidden)]
#[macro_export]
macro_rules! by_transports {
    ($test:ident: $($name:ident $transport:ident),+) => {
        mod $test {
            $(
                #[test]
                fn $name() {
                    $crate::Transport::$transport.during(super::$test);
                }
            )+
        }
    };
}
