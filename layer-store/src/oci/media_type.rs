//! The media types of image documents: OCI's and Docker's.

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The types that a registry is asked for.
pub(crate) const MANIFESTS: [&str; 4] = [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST];

/// Returns the type without its parameters. Some registries send `; charset=utf-8`.
pub(crate) fn bare(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or(media_type).trim()
}

/// Types that say nothing about a blob. Registries and clients of 2016 used them for configs and layers.
pub(crate) fn is_generic(media_type: &str) -> bool {
    matches!(
        bare(media_type),
        "" | "application/octet-stream"
            | "application/json"
            | "application/gzip"
            | "application/x-gzip"
            | "application/zstd"
            | "text/html"
            | "text/plain"
            | "binary/octet-stream"
    )
}

/// Returns whether a layer of this type may be a tar. The first bytes of the layer then tell how it is compressed.
pub(crate) fn may_be_tar(media_type: &str) -> bool {
    media_type.contains("tar") || is_generic(media_type)
}

/// Returns whether a layer of this type may be kept outside registries, at the `urls` of its descriptor.
pub(crate) fn is_foreign(media_type: &str) -> bool {
    let media_type = bare(media_type);
    media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
        || media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
}

/// Returns whether the type is one of Docker's own, which are older than OCI's.
pub(crate) fn is_docker(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_apart_by_what_they_promise() {
        assert_eq!(bare("application/json; charset=utf-8"), "application/json");
        for tar in [
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.container.image.rootfs.diff+x-gtar",
            "application/octet-stream",
            "",
        ] {
            assert!(may_be_tar(tar), "{tar}");
        }
        for other in ["application/wasm", "application/vnd.oci.image.layer.nydus.blob.v1", "application/spdx+json"] {
            assert!(!may_be_tar(other), "{other}");
        }
        assert!(is_foreign("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"));
        assert!(is_foreign("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"));
        assert!(!is_foreign("application/vnd.oci.image.layer.v1.tar"));
    }
}
