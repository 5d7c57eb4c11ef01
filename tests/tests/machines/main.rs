//! The life of machines: started away from a terminal, looked at, asked, ended, and gone without a trace.

mod abnormal_ends;
mod faults;
mod fixture;
mod lifecycle;
mod limits;
mod many;
mod persistence;
mod wait;
mod workloads;
