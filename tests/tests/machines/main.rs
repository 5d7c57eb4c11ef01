//! Machines from start to removal: detached, listed, queried, stopped, and removed without a trace.

mod abnormal_ends;
mod by_root;
mod container_habits;
mod damage;
mod delegation;
mod faults;
mod fixture;
mod habits;
mod hostile_guests;
mod image_config;
mod init_systems;
mod lifecycle;
mod limits;
mod many;
mod persistence;
mod secrets;
mod services;
mod shares;
mod terminal;
mod wait;
mod waits;
mod workloads;
