//! All tags of a repository.

use std::sync::Arc;

use layer_store::{Observer, Silent, Store};

use super::support::fake::{Fake, Reply};
use super::support::image::three_layers;
use super::support::registry::Registry;
use super::{Place, options, patient};

fn tags(place: &Place, name: &str) -> Result<Vec<String>, String> {
    let store = Store::open(place.root()).unwrap();
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let found = store.images().tags(&name.parse().unwrap(), &options(), &observer);
    found.map(|tags| tags.iter().map(ToString::to_string).collect()).map_err(|error| error.to_string())
}

#[test]
fn every_page_of_tags_is_read() {
    let fake = Fake::start(&[], |request| match request.path.as_str() {
        "/v2/a/b/tags/list" => Reply::Answer(
            200,
            vec!["Link: </v2/a/b/tags/list?last=2&n=2>; rel=\"next\"".to_owned()],
            r#"{"name":"a/b","tags":["1","2"]}"#.to_owned(),
        ),
        "/v2/a/b/tags/list?last=2&n=2" => Reply::Answer(
            200,
            // The login would be sent there.
            vec!["Link: <http://elsewhere.test/v2/a/b/tags/list>; rel=\"next\"".to_owned()],
            r#"{"name":"a/b","tags":["3"]}"#.to_owned(),
        ),
        "/v2/empty/tags/list" => Reply::Answer(200, Vec::new(), r#"{"name":"empty","tags":null}"#.to_owned()),
        "/v2/odd/tags/list" => Reply::Answer(200, Vec::new(), r#"{"tags":["../x"]}"#.to_owned()),
        _ => Reply::Serve,
    });
    let place = Place::new();
    let expected: Vec<String> = ["1", "2", "3"].iter().map(|tag| fake.name(&format!("a/b:{tag}"))).collect();
    assert_eq!(tags(&place, &fake.name("a/b")), Ok(expected));
    assert_eq!(tags(&place, &fake.name("empty")), Ok(Vec::new()));
    assert!(tags(&place, &fake.name("odd")).unwrap_err().contains("it is not a tag"));
    assert!(tags(&place, &fake.name("missing")).unwrap_err().contains("not in the registry"));
}

#[test]
fn a_list_without_an_end_is_not_kept_in_memory() {
    let many = |digits: usize| {
        let tags: Vec<String> = (0..60_000).map(|number| format!("\"{number:0digits$}\"")).collect();
        format!(r#"{{"tags":[{}]}}"#, tags.join(","))
    };
    let (short, long) = (many(6), format!(r#"{{"tags":["{}"]}}"#, "x".repeat(129)));
    let fake = Fake::start(&[], move |request| {
        let next = format!("Link: <{}x>; rel=\"next\"", request.path);
        let page = if request.path.contains("/long/") { &long } else { &short };
        Reply::Answer(200, vec![next], page.clone())
    });
    let place = Place::new();
    let refused = tags(&place, &fake.name("many")).unwrap_err();
    assert!(refused.contains("list of tags: more than 100000 tags"), "{refused}");
    assert_eq!(fake.requests("/many/").len(), 2);
    let refused = tags(&place, &fake.name("long")).unwrap_err();
    assert!(refused.contains("it is not a tag"), "{refused}");
    assert_eq!(fake.requests("/long/").len(), 1);
}

#[test]
fn tags_of_a_registry_are_those_that_were_pushed() {
    let registry = Registry::plain();
    for tag in ["one", "two"] {
        registry.push(&three_layers(1), &format!("team/app:{tag}"));
    }
    let place = Place::new();
    let mut found = tags(&place, &registry.name("team/app")).unwrap();
    found.sort();
    assert_eq!(found, [registry.name("team/app:one"), registry.name("team/app:two")]);
    for name in &found {
        place.pull(name, &patient()).unwrap();
    }
}
