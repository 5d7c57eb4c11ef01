//! The life of machines: started away from a terminal, looked at, asked, ended, and gone without a trace.

mod endings;
mod faults;
mod fixture;
mod kept;
mod life;
mod limits;
mod many;
mod waits;
mod work;
