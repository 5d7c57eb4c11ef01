//! Cases 49 to 60: modes, extended attributes, special files.

use super::case;
use super::deviations::*;

/// Case 49.
#[test]
fn setuid_setgid_and_sticky_are_kept() {
    case(
        "layer
           file a 04755 uid=1000 gid=1000
           file b 02755 uid=1000 gid=1000
           file c 06711 uid=1000
           dir  d 03777 gid=50
           file e 01644
           dir  f 07000
           file g 07777 uid=1",
    )
    .shows(
        "file a 04755 uid=1000 gid=1000
         file b 02755 uid=1000 gid=1000
         file c 06711 uid=1000
         dir  d 03777 gid=50
         file e 01644
         dir  f 07000
         file g 07777 uid=1",
    )
    .check();
}

/// Case 49: some programs write the type into the mode.
#[test]
fn type_bits_in_the_mode_do_not_count() {
    case(
        "layer
           file a 0640 \"a\" head.mode=\"0100640\"
           dir  d 0750 head.mode=\"0040750\"",
    )
    .shows("file a 0640 \"a\"\n dir d 0750")
    .check();
}

/// Case 50: `vfs_cap_data` of version 2 and 3.
const CAPABILITIES: [(&str, &str); 2] = [
    ("v2", "\\x01\\0\\0\\x02\\0\\x04\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0"),
    ("v3", "\\x01\\0\\0\\x03\\0\\x04\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\xe8\\x03\\0\\0"),
];

/// Case 50.
#[test]
fn capabilities_are_kept_byte_for_byte() {
    for (name, value) in CAPABILITIES {
        let shown = format!("file {name} 0755 \"x\" xattr.security.capability=\"{value}\"");
        case(&format!("layer\n{shown}")).shows(&shown).check();
    }
}

/// Case 50.
#[test]
fn capabilities_written_by_libarchive_are_kept_byte_for_byte() {
    for (name, value) in CAPABILITIES {
        let shown = format!("file {name} 0755 \"x\" xattr.security.capability=\"{value}\"");
        case(&format!("layer\n{shown} xattrs=libarchive"))
            .shows(&shown)
            .umoci_differs(&[&format!("/{name}")], UMOCI_IGNORES_LIBARCHIVE_XATTRS)
            .check();
    }
}

/// Case 50: libarchive URL-encodes the name and writes base64 without padding.
#[test]
fn xattrs_written_by_libarchive_are_decoded() {
    case(
        "layer
           file a xattr.user.one=\"1\" xattr.user.two=\"12\" xattr.user.three=\"123\" xattr.user.none=\"\" xattrs=libarchive
           file b xattr.\"user.a b=%\\xff\"=\"\\0\\xff\\n\" xattrs=libarchive
           file c xattr.user.k=\"padded\" pax.LIBARCHIVE.xattr.user.l=\"MQ==\" xattr.user.l=\"1\" xattrs=libarchive",
    )
    .shows(
        "file a xattr.user.one=\"1\" xattr.user.two=\"12\" xattr.user.three=\"123\" xattr.user.none=\"\"
         file b xattr.\"user.a b=%\\xff\"=\"\\0\\xff\\n\"
         file c xattr.user.k=\"padded\" xattr.user.l=\"1\"",
    )
    .umoci_differs(&["/a", "/b", "/c"], UMOCI_IGNORES_LIBARCHIVE_XATTRS)
    .check();
}

/// Case 50: both are written by bsdtar.
#[test]
fn xattr_written_in_both_styles_is_one() {
    case("layer\n file a \"a\" xattr.user.k=\"value\" pax.LIBARCHIVE.xattr.user.k=\"dmFsdWU\"")
        .shows("file a \"a\" xattr.user.k=\"value\"")
        .check();
}

/// Case 51: the store keeps what the host could not.
#[test]
fn xattrs_of_every_namespace_are_kept() {
    case(
        "layer
           file a xattr.security.selinux=\"system_u:object_r:bin_t:s0\\0\" xattr.security.ima=\"\\x03\\x01\"
           dir  d xattr.system.nfs4_acl=\"\\0\\0\\0\\x01\" xattr.trusted.other=\"t\"
           sym  l -> x xattr.user.on-a-symlink=\"v\"
           fifo p xattr.user.on-a-fifo=\"v\"
           file e xattr.user.mime_type=\"text/plain\" xattr.unknown.namespace=\"u\"",
    )
    .shows(
        "file a xattr.security.selinux=\"system_u:object_r:bin_t:s0\\0\" xattr.security.ima=\"\\x03\\x01\"
         dir  d xattr.system.nfs4_acl=\"\\0\\0\\0\\x01\" xattr.trusted.other=\"t\"
         sym  l -> x xattr.user.on-a-symlink=\"v\"
         fifo p xattr.user.on-a-fifo=\"v\"
         file e xattr.user.mime_type=\"text/plain\" xattr.unknown.namespace=\"u\"",
    )
    .umoci_fails(UMOCI_SETS_XATTRS_OF_LINKS)
    .check();
}

/// Case 51: `posix_acl_xattr` version 2: user::rw-, group::r--, other::---.
#[test]
fn posix_acls_are_kept_byte_for_byte() {
    let acl = "\\x02\\0\\0\\0\\x01\\0\\x06\\0\\xff\\xff\\xff\\xff\\x04\\0\\x04\\0\\xff\\xff\\xff\\xff\\x20\\0\\0\\0\\xff\\xff\\xff\\xff";
    let shown =
        format!("file a 0640 xattr.system.posix_acl_access=\"{acl}\"\n dir d xattr.system.posix_acl_default=\"{acl}\"");
    case(&format!("layer\n{shown}")).shows(&shown).check();
}

/// Case 52: they configure the overlay in which the layer was made, and no other.
#[test]
fn private_xattrs_of_overlayfs_are_hidden_and_have_no_effect() {
    case(
        "layer
           dir  d
           file d/kept \"kept\"
           file r \"r\"
         layer
           dir  d xattr.trusted.overlay.opaque=\"y\" xattr.user.overlay.opaque=\"y\" xattr.user.kept=\"v\"
           dir  e xattr.trusted.overlay.redirect=\"/d\"
           file r \"new\" xattr.trusted.overlay.metacopy=\"\" xattr.user.overlay.whiteout=\"\"
           file s xattr.trusted.overlay.overlay.opaque=\"y\" xattr.trusted.overlayfs=\"other\"",
    )
    .shows(
        "dir  d xattr.user.kept=\"v\"
         file d/kept \"kept\"
         dir  e
         file r \"new\"
         file s xattr.trusted.overlayfs=\"other\"",
    )
    .check();
}

/// Case 53.
#[test]
fn character_device_0_0_is_a_device_and_hides_nothing() {
    case(
        "layer
           dir  d
           file d/a \"a\"
           file b \"b\"
         layer
           char d/null 0,0 0600
           char b 0,0",
    )
    .shows(
        "dir  d
         file d/a \"a\"
         char d/null 0,0 0600
         char b 0,0",
    )
    .overlayfs_root_differs(&["/b", "/d/null"], OVERLAYFS_TAKES_CHAR_0_0_FOR_A_WHITEOUT)
    .check();
}

/// Case 54.
#[test]
fn device_numbers_are_kept() {
    case(
        "layer
           char a 1,3 0666
           block b 8,0 0660 gid=6
           char c 255,255
           char d 256,256
           block e 4095,1048575
           char f 511,65536
           fifo g 0600",
    )
    .shows(
        "char a 1,3 0666
         block b 8,0 0660 gid=6
         char c 255,255
         char d 256,256
         block e 4095,1048575
         char f 511,65536
         fifo g 0600",
    )
    .check();
}

/// Case 59.
#[test]
fn symlink_of_4095_bytes_is_taken() {
    for length in [1, 59, 60, 61, 100, 101, 255, 256, 4095] {
        case(&format!("layer\n sym l -> \"t\"*{length}")).shows(&format!("sym l -> \"t\"*{length}")).check();
    }
}

/// Case 59: no system call could make them or read them whole.
#[test]
fn symlink_that_linux_cannot_have_is_refused() {
    case("layer\n sym too-long -> \"t\"*4096").fails_to_import("too-long");
    case("layer\n sym no-target -> \"\"").fails_to_import("no-target");
    case("layer\n sym has-nul -> \"a\\0b\" as=pax").is_refused("has-nul");
}

/// Case 60: an empty value is a value.
#[test]
fn xattr_values_of_every_size_are_kept() {
    let lines: String = [0, 1, 255, 256, 4096, 60_000]
        .iter()
        .map(|size| format!("file f{size} xattr.user.k=\"{}\"\n", "v".repeat(*size)))
        .collect();
    case(&format!("layer\n{lines}")).shows(&lines).umoci_differs(&["/f0"], UMOCI_LOSES_EMPTY_XATTRS).check();
}
