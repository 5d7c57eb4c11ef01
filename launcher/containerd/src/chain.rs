//! Chain ids: what the OCI image specification calls the digest of a layer on top of others.

use layer_store::{DiffId, Digest, Store, StoreError};

/// Returns the chain id of `layer` on top of the layers with the chain id `below`.
pub(crate) fn extended(below: Option<&Digest>, layer: &DiffId) -> Digest {
    match below {
        None => layer.0,
        Some(below) => Digest::of(format!("{below} {layer}").as_bytes()),
    }
}

/// Returns the chain id that a snapshot's name ends with, as in `default/5/sha256:<hex>`.
pub(crate) fn in_name(name: &str) -> Option<Digest> {
    name.rsplit('/').next()?.parse().ok()
}

/// Finds the layer of the store that makes the chain `target` on top of `below`. No record of it is needed: a chain id is
/// a digest, and hashing one line for each layer of the store is fast.
pub(crate) fn find(store: &Store, below: Option<&Digest>, target: &Digest) -> Result<Option<DiffId>, StoreError> {
    let has = |layer: &DiffId| store.layers().has(layer);
    if below.is_none() {
        return Ok(Some(DiffId(*target)).filter(has));
    }
    let layers = store.layers().list()?;
    Ok(layers.into_iter().find(|layer| extended(below, layer) == *target).filter(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_image_specification() {
        let [first, second] = ["a", "b"].map(|text| DiffId(Digest::of(text.as_bytes())));
        let chain = extended(None, &first);
        assert_eq!(chain, first.0);
        assert_eq!(extended(Some(&chain), &second), Digest::of(format!("{} {}", first.0, second.0).as_bytes()));
    }

    #[test]
    fn the_chain_id_is_the_last_part_of_a_name() {
        let chain = Digest::of(b"x");
        assert_eq!(in_name(&format!("k8s.io/12/{chain}")), Some(chain));
        assert_eq!(in_name(&chain.to_string()), Some(chain));
        assert_eq!(in_name(&format!("default/3/extract-1 {chain}")), None);
        assert_eq!(in_name("default/3/container"), None);
    }
}
