//! Cases 41 and 42: times and owners.

use super::case;
use super::deviations::*;

/// Case 41.
#[test]
fn times_are_kept_to_the_nanosecond_and_before_the_epoch() {
    let times = [
        ("a", "0"),
        ("b", "1.5"),
        ("c", "1.000000001"),
        ("d", "1234567890.123456789"),
        ("e", "-1"),
        ("f", "-1.5"),
        ("g", "-0.25"),
        ("h", "-1000000000.999999999"),
        ("i", "2147483648"),
        ("j", "4294967296.5"),
        ("k", "8589934592"),
    ];
    let lines: String = times.iter().map(|(name, time)| format!("file {name} mtime={time}\n")).collect();
    case(&format!("layer\n{lines}")).shows(&lines).check();
}

/// Case 41: digits after the nanoseconds are cut off, towards the past before the epoch too.
#[test]
fn more_digits_than_nanoseconds_are_cut_off_towards_the_past() {
    case(
        "layer
           file a mtime=1.123456789 pax.mtime=\"1.1234567899\"
           file b mtime=-1.123456790 pax.mtime=\"-1.1234567891\"
           file c mtime=5 pax.mtime=\"5.\"",
    )
    .shows(
        "file a mtime=1.123456789
         file b mtime=-1.123456790
         file c mtime=5",
    )
    .umoci_differs(&["/b"], UMOCI_CUTS_TIMES_TOWARDS_ZERO)
    .check();
}

/// Case 41.
#[test]
fn base_256_numbers_are_read() {
    case(
        "layer
           file a uid=4294967294 gid=2097152 mtime=-5 \"a\" as=gnu
           file b mtime=68719476736 \"b\" as=gnu
           file c \"content\" as=gnu head.size=\"\\x80\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\x07\"
           file d \"d\"",
    )
    .shows(
        "file a uid=4294967294 gid=2097152 mtime=-5 \"a\"
         file b mtime=68719476736 \"b\"
         file c \"content\"
         file d \"d\"",
    )
    .umoci_differs(&["/b"], UMOCI_TIMES_END_IN_2262)
    .check();
}

/// Case 41: numbers with spaces before or after them, as old programs write them.
#[test]
fn octal_numbers_may_be_padded_with_spaces() {
    case(
        "layer
           file a 0640 uid=8 mtime=64 \"abc\" head.mode=\"   640 \" head.uid=\"    10 \\0\" head.size=\"          3 \" \
                head.mtime=\"        100 \"
           file b \"b\"",
    )
    .shows(
        "file a 0640 uid=8 mtime=64 \"abc\"
         file b \"b\"",
    )
    .check();
}

/// Case 42.
#[test]
fn owners_up_to_32_bits_are_kept() {
    case(
        "layer
           file a uid=65536 gid=65537
           file b uid=2147483648 gid=2147483647
           file c uid=4294967294 gid=4294967294
           dir  d uid=2097151 gid=2097152",
    )
    .shows(
        "file a uid=65536 gid=65537
         file b uid=2147483648 gid=2147483647
         file c uid=4294967294 gid=4294967294
         dir  d uid=2097151 gid=2097152",
    )
    .check();
}

/// Case 42.
#[test]
fn owner_beyond_32_bits_is_refused() {
    case("layer\n file too-wide uid=4294967296").is_refused("too-wide");
    case("layer\n file too-wide gid=9999999999 as=gnu").is_refused("too-wide");
}
