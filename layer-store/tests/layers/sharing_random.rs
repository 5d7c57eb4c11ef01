//! Random steps on stores whose layers share most of their content.

use std::collections::BTreeMap;
use std::fs;

use layer_store::{DiffId, Ino, Kind, Store, View};
use test_support::{Random, noise};

use crate::fixture::ingest;
use crate::lifecycle::tag;
use crate::sharing::{Kept, read, tar_of};

/// The files of a layer as they were put into its tar.
type Files = BTreeMap<String, Vec<u8>>;

fn random_layer(random: &mut Random, pool: &[Vec<u8>]) -> (Vec<u8>, Files) {
    let mut files = Files::new();
    for _ in 0..1 + random.below(6) {
        let mut content = pool[random.below(pool.len())].clone();
        match random.below(8) {
            // A twin except for its last byte, its length, or a byte inside.
            0 => content.extend_from_slice(b"x"),
            1 => content.truncate(content.len() - 1),
            2 => {
                let at = random.below(content.len());
                content[at] ^= 1;
            }
            3 => content = noise(random.below(1000) as u64, random.below(9000)),
            _ => {}
        }
        files.insert(format!("d{}/f{}", random.below(4), random.below(1000)), content);
    }
    let mut order: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    let turned = random.below(order.len());
    order.rotate_left(turned);
    (tar_of(&order), files)
}

fn walk(view: &View, dir: Ino, path: &str, found: &mut Files) {
    for entry in view.entries(dir, 0).expect("a directory") {
        let path = format!("{path}{}", String::from_utf8_lossy(entry.name));
        match entry.kind {
            Kind::Directory => walk(view, entry.ino, &format!("{path}/"), found),
            _ => {
                let content = read(view, &path).expect("content");
                found.insert(path, content);
            }
        }
    }
}

const STEPS: usize = 120;

#[test]
fn random_steps_on_stores_full_of_twins_keep_every_byte() {
    let mut random = Random::from_environment();
    let pool: Vec<_> = (0..6).map(|number| noise(100 + number, 20_000 + random.below(200_000))).collect();
    let known: Vec<_> = (0..14).map(|_| random_layer(&mut random, &pool)).collect();
    let mut kept = Kept::new();
    let mut images: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut thin = 0;
    for step in 0..STEPS {
        let name = format!("registry.example/{}:1", random.below(5));
        match random.below(6) {
            0 | 1 => {
                kept.store =
                    Store::open(kept.directory.path()).expect("a store").with_file_sharing(random.below(8) > 0);
                let stack: Vec<usize> = (0..1 + random.below(3)).map(|_| random.below(known.len())).collect();
                let layers: Vec<_> = stack.iter().map(|&layer| ingest(&kept.store, &known[layer].0)).collect();
                tag(&kept.store, &name, &layers);
                images.insert(name, stack);
            }
            2 if images.remove(&name).is_some() => kept.store.images().untag(&name).expect("untagged"),
            3 => {
                kept.reopen();
                let announced = kept.store.collect(true).expect("a dry run");
                assert_eq!(kept.store.collect(false).expect("a collection"), announced, "step {step}");
            }
            _ => {}
        }
        for stack in images.values() {
            let layers: Vec<_> = stack.iter().map(|&layer| DiffId(layer_store::Digest::of(&known[layer].0))).collect();
            layers.iter().for_each(|layer| kept.is_sound(layer));
            thin += layers.iter().filter(|layer| kept.is_thin(layer)).count();
            if step % 8 == 0 {
                let expected: Files = stack.iter().flat_map(|&layer| known[layer].1.clone()).collect();
                let mut found = Files::new();
                walk(&kept.view(&layers), Ino::ROOT, "", &mut found);
                assert!(found == expected, "step {step}");
            }
        }
    }
    assert!(thin > 0, "nothing was shared");
    drop(kept.store);
    for name in images.keys() {
        Store::open(kept.directory.path()).expect("the store").images().untag(name).expect("untagged");
    }
    let store = Store::open(kept.directory.path()).expect("the store");
    store.collect(false).expect("a collection");
    assert_eq!(fs::read_dir(kept.directory.path().join("layers/sha256")).expect("layers").count(), 0);
}
