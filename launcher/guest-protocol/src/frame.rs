//! Messages as bytes of the channel, and back.

use std::io::{self, Read, Write};

use zeroize::Zeroizing;

use crate::message::CHANNELS;
use crate::{
    HEADER, MAX_CHUNK, MAX_PAYLOAD, MAX_SECRET, Message, Protocol, Secret, Service, Side, StartError, TerminalSize,
    Warning,
};

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Setup(_) => 2,
            Self::Ready => 3,
            Self::Start(_) => 4,
            Self::Started => 5,
            Self::Stdin(_) => 6,
            Self::Stdout(_) => 7,
            Self::Stderr(_) => 8,
            Self::Credit(..) => 9,
            Self::Signal(_) => 10,
            Self::Resize(_) => 11,
            Self::Exited(_) => 12,
            Self::StartFailed(_) => 13,
            Self::Fatal(_) => 14,
            Self::PowerOff => 15,
            Self::Close(_) => 16,
            Self::Halting => 17,
            Self::Warning(_) => 18,
            Self::Stop(_) => 19,
            Self::Secret(_) => 20,
            Self::Connect(_) => 21,
            Self::Reset => 22,
            Self::Disconnected { .. } => 23,
        }
    }

    fn into_payload(self) -> io::Result<Vec<u8>> {
        Ok(match self {
            Self::Ready | Self::Started | Self::PowerOff | Self::Halting | Self::Reset => Vec::new(),
            Self::Hello(hello) => serde_json::to_vec(&hello)?,
            Self::Setup(setup) => serde_json::to_vec(&setup)?,
            Self::Start(process) => serde_json::to_vec(&process)?,
            Self::Exited(ending) => serde_json::to_vec(&ending)?,
            Self::Warning(warning) => serde_json::to_vec(&cut_warning(warning))?,
            Self::StartFailed(StartError { status, cause }) => {
                serde_json::to_vec(&StartError { status, cause: cut(cause) })?
            }
            Self::Secret(secret) => secret_payload(&secret)?,
            Self::Connect(Service { port, protocol }) => [&port.to_le_bytes()[..], &[protocol as u8]].concat(),
            Self::Disconnected { in_order } => vec![u8::from(in_order)],
            Self::Stdin(bytes) | Self::Stdout(bytes) | Self::Stderr(bytes) => bytes,
            Self::Credit(channel, count) => {
                let mut payload = vec![channel as u8];
                payload.extend(count.to_le_bytes());
                payload
            }
            Self::Close(channel) => vec![channel as u8],
            Self::Signal(number) | Self::Stop(number) => number.to_le_bytes().to_vec(),
            Self::Resize(size) => [size.rows.to_le_bytes(), size.columns.to_le_bytes()].concat(),
            Self::Fatal(text) => cut(text).into_bytes(),
        })
    }

    pub(super) fn parse(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match (kind, payload.as_slice()) {
            (1, json) => Self::Hello(serde_json::from_slice(json)?),
            (2, json) => Self::Setup(serde_json::from_slice(json)?),
            (3, []) => Self::Ready,
            (4, json) => Self::Start(serde_json::from_slice(json)?),
            (5, []) => Self::Started,
            (6, _) => Self::Stdin(payload),
            (7, _) => Self::Stdout(payload),
            (8, _) => Self::Stderr(payload),
            (9, &[channel @ 0..=2, a, b, c, d]) => {
                Self::Credit(CHANNELS[usize::from(channel)], u32::from_le_bytes([a, b, c, d]))
            }
            (10, &[a, b, c, d]) => Self::Signal(u32::from_le_bytes([a, b, c, d])),
            (11, &[a, b, c, d]) => {
                Self::Resize(TerminalSize { rows: u16::from_le_bytes([a, b]), columns: u16::from_le_bytes([c, d]) })
            }
            (12, json) => Self::Exited(serde_json::from_slice(json)?),
            (13, json) => Self::StartFailed(serde_json::from_slice(json)?),
            (14, text) => Self::Fatal(String::from_utf8_lossy(text).into_owned()),
            (15, []) => Self::PowerOff,
            (16, &[channel @ 0..=2]) => Self::Close(CHANNELS[usize::from(channel)]),
            (17, []) => Self::Halting,
            (18, json) => Self::Warning(serde_json::from_slice(json)?),
            (19, &[a, b, c, d]) => Self::Stop(u32::from_le_bytes([a, b, c, d])),
            (21, &[a, b, protocol @ 0..=1]) => Self::Connect(Service {
                port: u16::from_le_bytes([a, b]),
                protocol: if protocol == 0 { Protocol::Tcp } else { Protocol::Udp },
            }),
            (22, []) => Self::Reset,
            (23, &[in_order @ 0..=1]) => Self::Disconnected { in_order: in_order == 1 },
            (kind, payload) => {
                if let Some(secret) = parse_secret(payload).filter(|_| kind == 20) {
                    return Ok(Self::Secret(secret));
                }
                let cause = format!("a control message of type {kind} with {} bytes that mean nothing", payload.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
            }
        })
    }

    /// Returns the message as one frame.
    ///
    /// # Errors
    /// `InvalidInput` for a payload that is longer than its kind allows.
    pub fn into_frame(self, stream: u32) -> io::Result<Vec<u8>> {
        let kind = self.kind();
        // It may hold a secret.
        let payload = Zeroizing::new(self.into_payload()?);
        let most = [Side::Guest, Side::Host].into_iter().find_map(|side| most(kind, side)).unwrap_or_default();
        if payload.len() > most {
            let cause = format!("control message of {} bytes is longer than {most}", payload.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
        }
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        // The longest payload is far shorter than this type allows.
        frame.extend(u32::try_from(payload.len()).unwrap_or_default().to_le_bytes());
        frame.extend(stream.to_le_bytes());
        frame.extend([kind, 0, 0, 0]);
        frame.extend(payload.iter());
        Ok(frame)
    }

    /// Writes the message as one frame, with one `write_all`. The frames of two writers never mix if they share a lock
    /// around this call.
    ///
    /// # Errors
    /// The writer's error, or as for [`Message::into_frame`].
    pub fn write(self, stream: u32, mut to: impl Write) -> io::Result<()> {
        to.write_all(&self.into_frame(stream)?)?;
        to.flush()
    }

    /// Reads one frame that `sender` has sent: its stream and message, or `None` at the end of the stream. Takes no more
    /// memory than the longest payload of the frame's type, and none for a type that `sender` must not send.
    ///
    /// # Errors
    /// The reader's error, `UnexpectedEof` within a frame, or `InvalidData` for a frame that is not a [`Message`] of
    /// `sender`.
    pub fn read(mut from: impl Read, sender: Side) -> io::Result<Option<(u32, Self)>> {
        let mut header = [0; HEADER];
        let mut have = 0;
        while have < HEADER {
            match from.read(&mut header[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, padding @ ..] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let cause = match most(kind, sender) {
            None => format!("a control message of type {kind}, which the {sender} must not send"),
            Some(most) if length > most => {
                format!("a control message of type {kind} with {length} bytes, longer than {most}")
            }
            Some(_) if padding != [0; 3] => format!("a control message of type {kind} with bytes that must be zero"),
            Some(_) => {
                let mut payload = vec![0; length];
                from.read_exact(&mut payload)?;
                return Ok(Some((u32::from_le_bytes([s0, s1, s2, s3]), Self::parse(kind, payload)?)));
            }
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, cause))
    }
}

/// Returns the longest payload in bytes of a type, or `None` if `sender` must not send it.
const fn most(kind: u8, sender: Side) -> Option<usize> {
    Some(match (kind, sender) {
        (1, Side::Guest) => 4 << 10,
        (13 | 14 | 18, Side::Guest) => MAX_TEXT_PAYLOAD,
        (12, Side::Guest) => 64,
        (3 | 5 | 17, Side::Guest) | (15 | 22, Side::Host) => 0,
        (23, Side::Guest) => 1,
        (7 | 8, Side::Guest) | (6, Side::Host) => MAX_CHUNK,
        (9, _) => 5,
        (2 | 4, Side::Host) => MAX_PAYLOAD,
        (10 | 11 | 19, Side::Host) => 4,
        (16, Side::Host) => 1,
        (20, Side::Host) => 1 + NAME_MAX + MAX_SECRET,
        (21, Side::Host) => 3,
        _ => return None,
    })
}

/// The longest name of a file in bytes.
const NAME_MAX: usize = 255;

/// The longest payload with a guest's text in bytes: [`MAX_TEXT`] characters as JSON escapes them, and what is around
/// them.
const MAX_TEXT_PAYLOAD: usize = 16 << 10;

/// The longest text that a guest sends, in characters. The rest is cut off.
const MAX_TEXT: usize = 2000;

/// Cuts a text for the channel.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
    }
    text
}

fn cut_warning(warning: Warning) -> Warning {
    match warning {
        Warning::MemoryRanOut { process } => Warning::MemoryRanOut { process: cut(process) },
        Warning::DiskFailed { cause } => Warning::DiskFailed { cause: cut(cause) },
        Warning::Missing { cause } => Warning::Missing { cause: cut(cause) },
        other => other,
    }
}

fn secret_payload(secret: &Secret) -> io::Result<Vec<u8>> {
    let length = u8::try_from(secret.name.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut payload = Vec::with_capacity(1 + secret.name.len() + secret.content.len());
    payload.push(length);
    payload.extend(secret.name.as_bytes());
    payload.extend(&secret.content);
    Ok(payload)
}

fn parse_secret(payload: &[u8]) -> Option<Secret> {
    let (&length, rest) = payload.split_first()?;
    let (name, content) = rest.split_at_checked(length.into())?;
    Some(Secret { name: String::from_utf8(name.to_vec()).ok()?, content: content.to_vec() })
}
