//! The engines that machine tests run on.
//!
//! A test of a machine is a function of an [`Engine`], and [`on_engines`](crate::on_engines) makes one test of it for each
//! engine: `lifecycle::ready_means_that_something_listens::container`. Engines that no registry has are ignored unless
//! they are asked for, and each needs a variable with the path of its program.

use std::path::{Path, PathBuf};

/// What executes the machine of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// QEMU, which emulates the processor unless [`ACCELERATOR`](crate::session::ACCELERATOR) is set.
    Qemu,
    /// A container.
    Container,
    /// Cloud Hypervisor, with KVM.
    CloudHypervisor,
    /// Firecracker, with KVM.
    Firecracker,
}

/// Further programs that variables may name.
const OTHERS: [(&str, &str); 1] = [("LAMINA_PASST", "passt")];

/// Engines that nothing here installs: the variable with the path of the program, and the name of that program.
const FURTHER: [(Engine, &str, &str); 2] = [
    (Engine::CloudHypervisor, "LAMINA_CLOUD_HYPERVISOR", "cloud-hypervisor"),
    (Engine::Firecracker, "LAMINA_FIRECRACKER", "firecracker"),
];

impl Engine {
    /// Returns the options of `lamina run` that choose it.
    ///
    /// # Panics
    /// When the variable with the path of its program is not set.
    #[must_use]
    pub fn options(self) -> &'static [&'static str] {
        for (_, variable, _) in FURTHER.iter().filter(|(engine, ..)| *engine == self) {
            assert!(std::env::var_os(variable).is_some(), "set {variable} to the path of the program");
        }
        match self {
            Self::Qemu => &["--engine", "qemu", "--accel", "tcg"],
            Self::Container => &["--engine", "container"],
            Self::CloudHypervisor => &["--engine", "cloud-hypervisor"],
            Self::Firecracker => &["--engine", "firecracker"],
        }
    }

    /// Returns the role of its process in a machine's record.
    #[must_use]
    pub fn role(self) -> &'static str {
        if self.has_kernel() { "hypervisor" } else { "container" }
    }

    /// Returns whether its guests have a kernel of their own, and with it a console and a disk.
    #[must_use]
    pub fn has_kernel(self) -> bool {
        self != Self::Container
    }

    /// Makes the programs that variables name available in `directory`, by the names that `lamina` looks for. Returns
    /// whether there are any.
    ///
    /// # Panics
    /// When one cannot be copied.
    #[must_use]
    pub(crate) fn offer_all(directory: &Path) -> bool {
        let all = FURTHER
            .iter()
            .map(|(_, variable, name)| (variable, name))
            .chain(OTHERS.iter().map(|(variable, name)| (variable, name)));
        let named = all.filter_map(|(variable, name)| Some((std::env::var_os(variable)?, name)));
        named
            .map(|(path, name)| {
                let path = PathBuf::from(path);
                std::fs::copy(&path, directory.join(name)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            })
            .count()
            > 0
    }
}

/// Makes tests of functions that take an [`Engine`]. Each line says which engines, and names the functions:
///
/// | group | engines |
/// |---|---|
/// | `every` | all |
/// | `with_shares` | those that share directories of the host |
/// | `with_kernel` | those whose guests have a kernel of their own |
/// | `[qemu container]` | the ones in the list |
#[macro_export]
macro_rules! on_engines {
    ($($group:tt: $($test:ident),+);+ $(;)?) => { $($(mod $test { $crate::tests_on_engines!($group $test); })+)+ };
}

/// Makes the tests of one function for [`on_engines`].
#[doc(hidden)]
#[macro_export]
macro_rules! tests_on_engines {
    (every $test:ident) => { $crate::tests_on_engines!([qemu container cloud_hypervisor firecracker] $test); };
    (with_shares $test:ident) => { $crate::tests_on_engines!([qemu container cloud_hypervisor] $test); };
    (with_kernel $test:ident) => { $crate::tests_on_engines!([qemu cloud_hypervisor firecracker] $test); };
    ([$($engine:ident)+] $test:ident) => { $($crate::test_on_engine!($engine $test);)+ };
}

/// Makes one test for [`on_engines`].
#[doc(hidden)]
#[macro_export]
macro_rules! test_on_engine {
    (qemu $test:ident) => {
        #[test]
        fn qemu() {
            super::$test($crate::Engine::Qemu);
        }
    };
    (container $test:ident) => {
        #[test]
        fn container() {
            super::$test($crate::Engine::Container);
        }
    };
    (cloud_hypervisor $test:ident) => {
        #[test]
        #[ignore = "needs a real cloud-hypervisor: set LAMINA_CLOUD_HYPERVISOR"]
        fn cloud_hypervisor() {
            super::$test($crate::Engine::CloudHypervisor);
        }
    };
    (firecracker $test:ident) => {
        #[test]
        #[ignore = "needs a real firecracker: set LAMINA_FIRECRACKER"]
        fn firecracker() {
            super::$test($crate::Engine::Firecracker);
        }
    };
}
