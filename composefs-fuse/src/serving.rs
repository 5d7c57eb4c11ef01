//! The options for how a mount is served, which depend on the system.

#[cfg(target_os = "linux")]
pub(crate) use linux::Serving;
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::Serving;

#[cfg(target_os = "linux")]
mod linux {
    use composefs_fuse::linux::{ServeOptions, StatsOutlet, Transport};
    use composefs_fuse::mount::MountOptions;
    use std::path::PathBuf;

    #[derive(clap::Args)]
    pub(crate) struct Serving {
        /// How many threads answer the kernel
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
        threads: u8,
        /// What carries the kernel's requests: `device`, which is faster, or `fuser`, which is what a Mac has
        #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
        transport: Transport,
        /// Answer with counters as JSON at this socket too
        #[arg(long, value_name = "SOCKET")]
        stats: Option<PathBuf>,
    }

    impl Serving {
        /// Returns what these options say for a mount by `mount`.
        pub(crate) fn options(&self, mount: MountOptions) -> anyhow::Result<ServeOptions> {
            let stats = self.stats.as_deref().map(crate::program::absolute).transpose()?;
            let stats = stats.map_or(StatsOutlet::Default, StatsOutlet::At);
            Ok(ServeOptions { mount, threads: self.threads.into(), transport: self.transport, stats })
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use composefs_fuse::mount::MountOptions;
    use composefs_fuse::portable::ServeOptions;

    #[derive(clap::Args)]
    pub(crate) struct Serving {}

    impl Serving {
        /// Returns what these options say for a mount by `mount`.
        #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on Linux, which has options")]
        pub(crate) fn options(&self, mount: MountOptions) -> anyhow::Result<ServeOptions> {
            Ok(ServeOptions { mount })
        }
    }
}
