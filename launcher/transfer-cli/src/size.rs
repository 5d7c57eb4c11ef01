//! Sizes, as people write them.

/// Parses a size in bytes as docker does: a number, which may have a fraction, and a unit of powers of 1024, such as
/// `1.5g`, `512mb` or `1GiB`. A number alone is in bytes.
///
/// # Errors
/// It is not a size, or it is 0. The text says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes, or one with a unit, as in 512M or 1.5GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(1 << shift),
        Err(_) if !number.starts_with(|c: char| c.is_ascii_digit()) => None,
        Err(_) => number.parse::<f64>().ok().and_then(|number| whole(number * (1_u64 << shift) as f64)),
    };
    bytes.filter(|&bytes| bytes > 0).ok_or_else(wrong)
}

/// Returns the whole part of a number that is not negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole(number: f64) -> Option<u64> {
    (0.0..9e18).contains(&number).then_some(number as u64)
}
