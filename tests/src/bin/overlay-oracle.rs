//! Prints what kernel overlayfs shows of the stack on standard input; started by the conformance tests in a separate
//! mount namespace; see `conformance::overlayfs`.

use std::io::Read as _;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    print!("{}", end_to_end::conformance::overlayfs::oracle_program(&arguments, &text)?);
    Ok(())
}
