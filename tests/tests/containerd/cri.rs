//! Pods and containers as the kubelet starts them: the runtime service of Kubernetes (CRI), by gRPC.

use std::collections::HashMap;

use end_to_end::layout::Layer;
use end_to_end::until;

use super::cri_messages as cri;
use super::fixture::{Node, PAUSE, base, sorted};
use super::grpc::Grpc;

/// A kubelet of this node.
struct Kubelet<'a> {
    node: &'a Node,
    grpc: Grpc,
}

impl<'a> Kubelet<'a> {
    fn of(node: &'a Node) -> Self {
        let grpc = Grpc::at(&node.path("c.sock"));
        until("the plug-in to serve", || {
            grpc.call::<cri::Nothing>("/runtime.v1.RuntimeService/Status", &cri::Nothing {}).is_ok()
        });
        Self { node, grpc }
    }

    fn runtime<A: prost::Message + Default>(&self, method: &str, message: &impl prost::Message) -> A {
        let answer = self.grpc.call(&format!("/runtime.v1.RuntimeService/{method}"), message);
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.node.logs()))
    }

    fn images<A: prost::Message + Default>(&self, method: &str, message: &impl prost::Message) -> A {
        let answer = self.grpc.call(&format!("/runtime.v1.ImageService/{method}"), message);
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.node.logs()))
    }

    fn pull(&self, image: &str) {
        let image = Some(cri::Image { image: image.to_owned() });
        let _: cri::Name = self.images("PullImage", &cri::ImageRequest { image });
    }

    fn remove_image(&self, image: &str) {
        let image = Some(cri::Image { image: image.to_owned() });
        let _: cri::Nothing = self.images("RemoveImage", &cri::ImageRequest { image });
    }

    fn pod(&self, name: &str) -> Pod<'_> {
        let id = self.node.id(name);
        let metadata = cri::PodMetadata { name: id.clone(), uid: id, namespace: "default".into(), attempt: 0 };
        // The network of the host: there are no network plug-ins here.
        let security = cri::PodSecurity { namespaces: Some(cri::Namespaces { network: 2, pid: 0, ipc: 0 }) };
        let linux = cri::LinuxPod { cgroup_parent: String::new(), security: Some(security) };
        let labels = HashMap::from([("app".to_owned(), name.to_owned())]);
        let directory = self.node.session.work("pods").display().to_string();
        let config = cri::PodConfig { metadata: Some(metadata), directory, labels, linux: Some(linux) };
        let request = cri::RunPod { config: Some(config.clone()) };
        let cri::Name { name } = self.runtime("RunPodSandbox", &request);
        Pod { kubelet: self, id: name, config }
    }
}

/// A pod that runs.
struct Pod<'a> {
    kubelet: &'a Kubelet<'a>,
    id: String,
    config: cri::PodConfig,
}

impl Pod<'_> {
    fn start(&self, name: &str, image: &str) -> String {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(cri::Image { image: image.to_owned() }),
            command: ["/bin/sh", "-ec", "exec sleep 1000"].map(str::to_owned).into(),
            log_path: format!("{name}.log"),
        };
        let request =
            cri::CreateContainer { pod: self.id.clone(), config: Some(config), pod_config: Some(self.config.clone()) };
        let container: cri::Name = self.kubelet.runtime("CreateContainer", &request);
        let _: cri::Nothing = self.kubelet.runtime("StartContainer", &container);
        container.name
    }

    fn exec(&self, container: &str, script: &str) -> String {
        let command = ["/bin/sh", "-ec", script].map(str::to_owned).into();
        let request = cri::Exec { container: container.to_owned(), command, seconds: 60 };
        let done: cri::ExecDone = self.kubelet.runtime("ExecSync", &request);
        assert_eq!(done.status, 0, "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let pod = cri::Name { name: self.id.clone() };
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let answer = self.kubelet.grpc.call::<cri::Nothing>(&format!("/runtime.v1.RuntimeService/{method}"), &pod);
            assert!(answer.is_ok() || std::thread::panicking(), "{answer:?}");
        }
    }
}

/// An image whose process waits to be ended.
fn push_pause(node: &Node) {
    let (name, tag) = PAUSE.split_once(':').expect("a tag");
    let layout = end_to_end::Layout::of_config(&[base()], &serde_json::json!({"Entrypoint": ["/bin/sleep", "100000"]}));
    node.registry.push_layout(layout.path(), name, tag);
}

#[test]
fn pods_run_fifty_containers_of_three_images_that_are_stored_once() {
    let node = Node::with_cri();
    push_pause(&node);
    let kubelet = Kubelet::of(&node);
    let tops = ["one", "two", "three"].map(|name| Layer::of_files(&[("top", name.as_bytes())]));
    let images: Vec<String> =
        ["one", "two", "three"].iter().zip(&tops).map(|(name, top)| node.push(name, &[base(), top.clone()])).collect();
    images.iter().for_each(|image| kubelet.pull(image));
    let pod = kubelet.pod("pod");
    let containers: Vec<(usize, String)> =
        (0..50).map(|number| (number % 3, pod.start(&format!("c{number}"), &images[number % 3]))).collect();
    for (image, container) in &containers {
        let expected = ["one", "two", "three"][*image];
        assert_eq!(pod.exec(container, "cat /top; echo mine > /top; cat /top"), format!("{expected}mine\n"));
    }
    assert_eq!(node.views().len(), 4, "a view for each image, and one for that of the pod");
    // The lowest layer, which all images have, was unpacked once.
    assert_eq!(node.layers().len(), 4, "{:?}", node.layers());
    drop(pod);
    images.iter().for_each(|image| kubelet.remove_image(image));
    node.collect_of("k8s.io");
    until("the layers of the images to be freed", || {
        node.collect_of("k8s.io");
        node.layers().len() == 1
    });
}

#[test]
fn a_pod_uses_an_image_that_was_pulled_into_the_store() {
    let node = Node::with_cri();
    push_pause(&node);
    let kubelet = Kubelet::of(&node);
    let layers = [base(), Layer::of_files(&[("top", b"top")])];
    let image = node.push("one", &layers);
    let socket = node.path("c.sock").display().to_string();
    for image in [&image, &node.registry.name(PAUSE)] {
        let mut pull = node.lamina(&["pull", "--namespace", "k8s.io", "--address", &socket, image]);
        end_to_end::Finished::of(&mut pull).succeeded();
    }
    let fetched = node.registry.fetched_blobs();
    let asked = cri::ImageRequest { image: Some(cri::Image { image: image.clone() }) };
    until("the plug-in to see the image", || {
        kubelet.images::<cri::ImageStatus>("ImageStatus", &asked).image.is_some_and(|found| !found.id.is_empty())
    });
    let pod = kubelet.pod("pod");
    let container = pod.start("c", &image);
    assert_eq!(pod.exec(&container, "cat /top"), "top");
    assert_eq!(node.registry.fetched_blobs(), fetched, "nothing is fetched again");
    assert_eq!(node.layers(), sorted(layers.iter().map(Layer::diff_id).collect()));
}
