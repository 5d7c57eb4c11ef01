//! The forms that commands have on a system with FUSE that is not Linux. Tests on Linux try them, too.

// The program on Linux has others.
#![cfg_attr(target_os = "linux", allow(dead_code))]

pub(super) mod doctor;
pub(super) mod umount;

use std::ffi::OsString;

use clap::Subcommand;

use super::Global;
use crate::failure::Failure;

/// Further commands, of which there are none here.
#[derive(Debug, Subcommand)]
pub(super) enum Command {}

impl Command {
    pub(super) fn execute(self, _global: &Global, _arguments: Vec<OsString>) -> Result<u8, Failure> {
        match self {}
    }
}

/// Handles the arguments with which this program starts itself, of which there are none here.
pub(super) fn internal(_arguments: &[OsString]) -> Option<Result<u8, Failure>> {
    None
}
