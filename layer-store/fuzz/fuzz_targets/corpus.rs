//! Writes the first corpus of every target: `corpus DIR`.

use std::error::Error;
use std::path::Path;

mod samples;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: corpus DIR")?;
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let directory = Path::new(&root).join(target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(name), bytes)
    };
    let tars = samples::layers();
    let indexes = tars.iter().map(|tar| layer_store::fuzzing::tar(tar).ok_or("a sample is no layer"));
    let indexes = indexes.collect::<Result<Vec<_>, _>>()?;
    for (number, (tar, index)) in tars.iter().zip(&indexes).enumerate() {
        put("tar", &format!("sample-{number}"), tar)?;
        put("layer_index", &format!("sample-{number}"), index)?;
    }
    put("view", "sample", &tars.join(&[0xff, 0xff][..]))?;
    put("base", "sample", &layer_store::fuzzing::base_of(&indexes).ok_or("the samples do not merge")?)?;
    let map = layer_store::fuzzing::sharing_map_of(&tars[0], &tars[1]);
    put("sharing_map", "sample", &map.ok_or("the sample is no map")?)?;
    let map = layer_store::fuzzing::block_map_of(&indexes);
    put("block_map", "sample", &map.ok_or("the samples have no block map")?)?;
    println!("{} layers, each target has a corpus", indexes.len());
    Ok(())
}
