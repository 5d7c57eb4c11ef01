//! Pictures as SVG.

use std::collections::HashMap;
use std::fmt::Write;

use layer_store::{DiffId, LayerUsage, Usage};

const WIDTH: f64 = 900.0;
const NAMES: f64 = 260.0;
const ROW: f64 = 28.0;
const BAR: f64 = 20.0;

/// Draws one bar per image, its layers in the order of their stack and as long as they are large. A layer that several
/// images have is of one colour in all of them; one that a single image has is grey. What a layer borrows is an empty bar.
#[must_use]
pub fn shared_layers(usage: &Usage) -> String {
    let layers: HashMap<DiffId, &LayerUsage> = usage.layers.iter().map(|layer| (layer.diff_id, layer)).collect();
    let largest = usage.images.iter().map(|image| image.on_disk + image.borrowed).max().unwrap_or(0).max(1);
    let scale = (WIDTH - NAMES - 10.0) / to_f64(largest);
    let mut svg = String::new();
    let height = ROW * to_f64(usage.images.len() as u64 + 1);
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">"
    );
    for (row, image) in usage.images.iter().enumerate() {
        let top = ROW * to_f64(row as u64) + 4.0;
        let name = escape(&image.reference);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", NAMES - 8.0, top + 14.0);
        let mut left = NAMES;
        for layer in image.layers.iter().filter_map(|layer| layers.get(layer)) {
            let width = to_f64(layer.on_disk()) * scale;
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{}\" \
                 stroke=\"white\"><title>{} {}, {} images</title></rect>",
                colour(layer),
                layer.diff_id,
                indicatif::HumanBytes(layer.on_disk()),
                layer.images.len()
            );
            left += width;
            let borrowed = to_f64(layer.borrowed()) * scale;
            if borrowed > 0.0 {
                let _ = writeln!(
                    svg,
                    "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{borrowed:.1}\" height=\"{BAR}\" fill=\"none\" \
                     stroke=\"#888\" stroke-dasharray=\"3 2\"><title>{} {} that lie in other layers</title></rect>",
                    layer.diff_id,
                    indicatif::HumanBytes(layer.borrowed()),
                );
                left += borrowed;
            }
        }
    }
    let [layers, files] = [usage.saved_by_layers, usage.saved_by_files].map(indicatif::HumanBytes);
    let _ = writeln!(
        svg,
        "<text x=\"{NAMES}\" y=\"{}\">saved by sharing layers: {layers}, by sharing their content: {files}</text>",
        height - 8.0
    );
    svg.push_str("</svg>\n");
    svg
}

fn colour(layer: &LayerUsage) -> String {
    if layer.images.len() < 2 {
        return "#c8c8c8".to_owned();
    }
    let [first, second, ..] = *layer.diff_id.0.as_bytes();
    format!("hsl({}, 60%, 55%)", (u32::from(first) << 8 | u32::from(second)) % 360)
}

#[allow(clippy::cast_precision_loss, reason = "a picture has fewer pixels than a double has digits")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
