//! Engines: what executes a machine's guest.
//!
//! Each engine has its own folder. Only the code there knows the engine's options and behaviour; all other code uses
//! the trait [`Engine`] and finds engines in the [`table`]. To add one: write its folder, declare it here, and add its
//! line to the table.

mod boot_probe;
mod capabilities;
mod cloud_hypervisor;
mod container;
mod contract;
mod firecracker;
mod plan;
pub(crate) mod policy;
mod qemu;
mod request;
mod socket_device;
pub(crate) mod table;

pub(crate) use capabilities::HostCapabilities;
pub(crate) use container::{
    CONTAINER, REMOVE, namespace, remove as remove_writes, remove_here, remove_tree, run_stage,
};
pub(crate) use contract::{Accelerator, Engine, Event, Events, Exit, Host, Running, check};
pub(crate) use plan::{
    Bind, Container, ContainerRoot, Disk, Limits, NetworkDevice, Plan, ServedDisk, ShareDevice, Upper, check_socket,
};
pub(crate) use request::{Backend, Choice, RunRequest};

#[cfg(test)]
pub(crate) use plan::example;
