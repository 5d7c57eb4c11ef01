//! Registries that send slowly over each connection: a large layer comes over several of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use layer_store::{LayerProgress, Observer, PullOptions};

use super::support::fake::{Fake, HttpRequest, Reply};
use super::support::image::{Image, Layer, Packing, noise};
use super::support::registry::{Registry, SlowProxy};
use super::{Place, patient};

/// At most 5 MB a second.
const PAUSE: Duration = Duration::from_millis(3);
const PART: usize = 4 << 20;

fn large() -> Image {
    Image::new(vec![Layer::new("a", &noise(1, 26 << 20), Packing::Gzip)])
}

/// The first and the last byte of a range that has both.
fn closed(range: &str) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn part_of(request: &HttpRequest) -> Option<(usize, usize)> {
    closed(request.headers.get("range")?)
}

/// A registry behind a slow proxy, which answers requests for parts of the layer as `part` says: it is called with the
/// number of such requests before, the range, and the bytes of the layer.
fn slow(
    image: &Image,
    part: impl Fn(usize, (usize, usize), &[u8]) -> Reply + Send + Sync + 'static,
) -> (Fake, SlowProxy) {
    let (digest, bytes) = (image.layers[0].digest(), image.layers[0].packed.clone());
    let earlier = AtomicUsize::new(0);
    let fake = Fake::start(&[image], move |request: &HttpRequest| match part_of(request) {
        Some(range) if request.path.contains(&digest) => part(earlier.fetch_add(1, Ordering::Relaxed), range, &bytes),
        _ => Reply::Serve,
    });
    let proxy = SlowProxy::start(fake.port, PAUSE);
    (fake, proxy)
}

fn exactly((first, last): (usize, usize), all: &[u8]) -> Reply {
    let range = format!("Content-Range: bytes {first}-{last}/{}", all.len());
    Reply::Bytes(206, vec![range], all[first..=last].to_vec())
}

#[test]
fn a_large_layer_comes_over_several_connections_if_each_is_slow() {
    let (registry, image, place) = (Registry::plain(), large(), Place::new());
    registry.push(&image, "team/app:1");
    let proxy = SlowProxy::start(registry.port, PAUSE);
    let name = format!("127.0.0.1:{}/team/app:1", proxy.port);
    place.pull(&name, &patient()).unwrap();
    place.assert_holds(&name, &image);
    let mut parts: Vec<_> = proxy.ranges().iter().filter_map(|range| closed(range)).collect();
    // They arrive in any order.
    parts.sort_unstable();
    assert!(parts.len() >= 4 && parts.iter().all(|(first, last)| last + 1 - first <= PART), "{parts:?}");
    assert!(parts.windows(2).all(|two| two[0].1 + 1 == two[1].0), "no byte twice: {parts:?}");
    assert_eq!(parts.last().unwrap().1 + 1, image.layers[0].packed.len());
    assert!(proxy.most_sending() >= 2, "{}", proxy.most_sending());
}

#[test]
fn a_pull_of_one_layer_at_a_time_uses_one_connection() {
    let image = large();
    let (fake, proxy) = slow(&image, |_, range, all| exactly(range, all));
    let name = format!("127.0.0.1:{}/test:0", proxy.port);
    let place = Place::new();
    place.pull(&name, &PullOptions { parallel: 1, ..patient() }).unwrap();
    place.assert_holds(&name, &image);
    assert_eq!((fake.requests(&image.layers[0].digest()).len(), proxy.ranges().len()), (1, 0));
}

/// A reader that stops for a moment when the first part is passed on to it.
#[derive(Debug)]
struct Stopping {
    proxy: Arc<SlowProxy>,
    /// How many parts had been asked for after that.
    asked: Mutex<Option<usize>>,
}

impl Observer for Stopping {
    fn layer(&self, progress: &LayerProgress<'_>) {
        let Some((first, _)) = self.proxy.ranges().first().and_then(|range| closed(range)) else { return };
        let mut asked = self.asked.lock().unwrap();
        if asked.is_none() && progress.bytes > first as u64 {
            // Time for a request that must not come.
            std::thread::sleep(Duration::from_millis(300));
            *asked = Some(self.proxy.ranges().len());
        }
    }
}

#[test]
fn each_connection_keeps_one_part_in_memory() {
    let (image, place) = (large(), Place::new());
    let (_fake, proxy) = slow(&image, |_, range, all| exactly(range, all));
    let name = format!("127.0.0.1:{}/test:0", proxy.port);
    let reader = Arc::new(Stopping { proxy: Arc::new(proxy), asked: Mutex::default() });
    let observer: Arc<dyn Observer> = Arc::clone(&reader) as Arc<dyn Observer>;
    place.watched(&name, &PullOptions { parallel: 2, ..patient() }, &observer).unwrap();
    place.assert_holds(&name, &image);
    let asked = reader.asked.lock().unwrap().expect("the layer comes in parts");
    assert!(asked <= 2, "{asked} parts for two connections");
}

/// The first answer goes on, and nothing is fetched twice.
#[test]
fn a_registry_without_ranges_is_asked_once_for_a_part() {
    type Part = Box<dyn Fn(usize, (usize, usize), &[u8]) -> Reply + Send + Sync>;
    let parts: Vec<(&str, Part)> = vec![
        ("sends everything", Box::new(|_, _, _| Reply::Serve)),
        ("refuses", Box::new(|_, _, _| Reply::Answer(416, Vec::new(), String::new()))),
        ("sends other bytes", Box::new(|_, (first, last), all| exactly((first + 1, last + 1), all))),
    ];
    let pulled = |(server, part)| {
        let image = large();
        let (fake, proxy) = slow(&image, part);
        let (place, name) = (Place::new(), format!("127.0.0.1:{}/test:0", proxy.port));
        place.pull(&name, &patient()).unwrap();
        place.assert_holds(&name, &image);
        assert_eq!(fake.requests(&image.layers[0].digest()).len(), 2, "a registry that {server}");
        assert_eq!(proxy.ranges().len(), 1, "a registry that {server}");
    };
    std::thread::scope(|scope| parts.into_iter().for_each(|part| drop(scope.spawn(|| pulled(part)))));
}

#[test]
fn a_part_that_fails_is_fetched_over_one_connection() {
    let image = large();
    let (fake, proxy) = slow(&image, |earlier, range, all| match earlier {
        1 => Reply::CutAfter(1000),
        2 => Reply::Answer(500, Vec::new(), String::new()),
        _ => exactly(range, all),
    });
    let (place, name) = (Place::new(), format!("127.0.0.1:{}/test:0", proxy.port));
    place.pull(&name, &patient()).unwrap();
    place.assert_holds(&name, &image);
    let requests = fake.requests(&image.layers[0].digest());
    let last = requests.last().unwrap();
    assert!(part_of(last).is_none() && last.headers.contains_key("range"), "the rest: {last:?}");
}

#[test]
fn parts_that_do_not_fit_together_are_fetched_again_as_a_whole() {
    let image = large();
    let (fake, proxy) = slow(&image, |earlier, range, all| match earlier {
        1 => {
            let (first, last) = range;
            let said = format!("Content-Range: bytes {first}-{last}/{}", all.len());
            Reply::Bytes(206, vec![said], all[..=last - first].to_vec())
        }
        _ => exactly(range, all),
    });
    let (place, name) = (Place::new(), format!("127.0.0.1:{}/test:0", proxy.port));
    place.pull(&name, &patient()).unwrap();
    place.assert_holds(&name, &image);
    let requests = fake.requests(&image.layers[0].digest());
    assert!(!requests.last().unwrap().headers.contains_key("range"), "the whole layer, over one connection");
}
