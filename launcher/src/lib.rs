//! launcher

pub mod vhost_user;
