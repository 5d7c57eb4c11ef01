//! A client of gRPC: one HTTP/2 connection on a Unix socket, and calls with one message each way.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;
use tokio::runtime::Runtime;

/// A connection.
pub(crate) struct Grpc {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

impl Grpc {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let requests = runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(socket).await.expect("a socket where something listens");
            let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            requests
        });
        Self { runtime, requests }
    }

    /// Calls a method, such as `/runtime.v1.RuntimeService/Version`. The error is what the server says.
    pub(crate) fn call<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A, String> {
        let answer =
            self.runtime.block_on(self.exchange(method, message)).unwrap_or_else(|error| Err(error.to_string()));
        answer.map_err(|error| format!("{method}: {error}"))
    }

    async fn exchange<A: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<Result<A, String>, h2::Error> {
        let request = http::Request::post(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let (response, mut body) = self.requests.clone().ready().await?.send_request(request, false)?;
        // Not compressed, and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.encoded_len()).expect("a short message"));
        message.encode(&mut framed).expect("a buffer that grows");
        body.send_data(framed.freeze(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut received = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            received.extend_from_slice(&part);
        }
        // An answer without a message has its status in front.
        let end = body.trailers().await?.unwrap_or(head.headers);
        let field = |name: &str| end.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if field("grpc-status").as_deref() != Some("0") {
            return Ok(Err(format!("{:?} {:?}", field("grpc-status"), field("grpc-message"))));
        }
        Ok(A::decode(received.get(5..).unwrap_or_default()).map_err(|error| error.to_string()))
    }
}
