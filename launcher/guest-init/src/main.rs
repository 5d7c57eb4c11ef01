//! lamina
fn main() {}
