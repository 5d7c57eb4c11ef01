//! Draws the layers that images share, as SVG.

use std::collections::HashMap;
use std::fmt::Write;

use layer_store::{DiffId, LayerUsage, Usage};

/// Width of the longest bar in pixels.
const BARS: f64 = 640.0;
/// Width of the size after a bar in pixels.
const SIZES: f64 = 80.0;
const ROW: f64 = 28.0;
const BAR: f64 = 20.0;
/// Upper bound for the width of a character of most names in pixels.
const CHARACTER: f64 = 7.0;
const LEGEND: &str = "colour: a layer of several images; grey: of one image; dashed: content kept in other layers";

/// Draws one bar per image, with its layers in stack order and as long as they are large. A layer that several images
/// share has the same colour in all of them; a layer of one image is grey. Borrowed content is an empty, dashed bar.
#[must_use]
pub(crate) fn shared_layers(usage: &Usage) -> String {
    let layers: HashMap<DiffId, &LayerUsage> = usage.layers.iter().map(|layer| (layer.diff_id, layer)).collect();
    let largest = usage.images.iter().map(|image| image.on_disk + image.borrowed).max().unwrap_or(0).max(1);
    let scale = BARS / to_f64(largest);
    let longest = usage.images.iter().map(|image| image.reference.chars().count()).max().unwrap_or(0);
    let names = to_f64(longest as u64) * CHARACTER + 16.0;
    let width = (names + BARS + SIZES).max(to_f64(LEGEND.len() as u64) * CHARACTER + 16.0);
    let mut svg = String::new();
    let height = ROW * to_f64(usage.images.len() as u64 + 2);
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>"
    );
    for (row, image) in usage.images.iter().enumerate() {
        let top = ROW * to_f64(row as u64) + 4.0;
        let name = escape(&image.reference);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", names - 8.0, top + 14.0);
        let mut left = names;
        for layer in image.layers.iter().filter_map(|layer| layers.get(layer)) {
            let width = to_f64(layer.on_disk()) * scale;
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{}\" \
                 stroke=\"white\"><title>{} {}, {}</title></rect>",
                colour(layer),
                layer.diff_id,
                indicatif::HumanBytes(layer.on_disk()),
                images(layer.images.len())
            );
            left += width;
            let borrowed = to_f64(layer.borrowed()) * scale;
            if borrowed > 0.0 {
                let _ = writeln!(
                    svg,
                    "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{borrowed:.1}\" height=\"{BAR}\" fill=\"none\" \
                     stroke=\"#888\" stroke-dasharray=\"3 2\"><title>{} {} kept in other layers</title></rect>",
                    layer.diff_id,
                    indicatif::HumanBytes(layer.borrowed()),
                );
                left += borrowed;
            }
        }
        let size = indicatif::HumanBytes(image.on_disk);
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{size}</text>", left + 6.0, top + 14.0);
    }
    let [layers, files] = [usage.saved_by_layers, usage.saved_by_files].map(indicatif::HumanBytes);
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"{}\">{LEGEND}</text>\n\
         <text x=\"8\" y=\"{}\">saved by sharing layers: {layers}, by sharing their content: {files}</text>",
        height - ROW - 8.0,
        height - 8.0
    );
    svg.push_str("</svg>\n");
    svg
}

fn images(count: usize) -> String {
    if count == 1 { "1 image".to_owned() } else { format!("{count} images") }
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

#[cfg(test)]
mod tests {
    use layer_store::ImageUsage;

    use super::*;

    fn usage(reference: &str) -> Usage {
        let image = ImageUsage {
            reference: reference.to_owned(),
            layers: Vec::new(),
            apparent: 0,
            on_disk: 3 << 20,
            shared: 0,
            unique: 0,
            borrowed: 0,
            elsewhere: 0,
            error: None,
        };
        Usage { images: vec![image], ..Usage::default() }
    }

    /// Returns the number in an attribute of the first element that starts with `element`.
    fn number(svg: &str, element: &str, attribute: &str) -> f64 {
        let element = svg.split(element).nth(1).unwrap();
        let value = element.split(&format!(" {attribute}=\"")).nth(1).unwrap();
        value.split(['"', ' ']).next().unwrap().parse().unwrap()
    }

    #[test]
    fn long_name_is_not_cut_and_sizes_are_seen_without_pointing() {
        let name = format!("registry.example/{}:1", "n".repeat(100));
        let svg = shared_layers(&usage(&name));
        // Text that ends there starts right of the left edge.
        assert!(number(&svg, "<text", "x") >= name.len() as f64 * 6.0, "{svg}");
        assert!(svg.contains("3.00 MiB") && svg.contains(LEGEND), "{svg}");
    }
}
