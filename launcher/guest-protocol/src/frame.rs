//! Messages as bytes of the channel, and back.

use std::io::{self, Read, Write};

use crate::message::CHANNELS;
use crate::{MAX_PAYLOAD, Message, TerminalSize};

/// The length of a frame's header in bytes.
const HEADER: usize = 12;

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
        }
    }

    fn into_payload(self) -> io::Result<Vec<u8>> {
        Ok(match self {
            Self::Ready | Self::Started | Self::PowerOff | Self::Halting => Vec::new(),
            Self::Hello(hello) => serde_json::to_vec(&hello)?,
            Self::Setup(setup) => serde_json::to_vec(&setup)?,
            Self::Start(process) => serde_json::to_vec(&process)?,
            Self::Exited(ending) => serde_json::to_vec(&ending)?,
            Self::Warning(warning) => serde_json::to_vec(&warning)?,
            Self::StartFailed(error) => serde_json::to_vec(&error)?,
            Self::Stdin(bytes) | Self::Stdout(bytes) | Self::Stderr(bytes) => bytes,
            Self::Credit(channel, count) => {
                let mut payload = vec![channel as u8];
                payload.extend(count.to_le_bytes());
                payload
            }
            Self::Close(channel) => vec![channel as u8],
            Self::Signal(number) | Self::Stop(number) => number.to_le_bytes().to_vec(),
            Self::Resize(size) => [size.rows.to_le_bytes(), size.columns.to_le_bytes()].concat(),
            Self::Fatal(text) => text.into_bytes(),
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
            (kind, payload) => {
                let cause = format!("control message of type {kind} with {} bytes", payload.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
            }
        })
    }

    /// Writes the message as one frame, with one `write_all`. The frames of two writers never mix if they share a lock
    /// around this call.
    ///
    /// # Errors
    /// What the writer says, or `InvalidInput` for a payload longer than [`MAX_PAYLOAD`].
    pub fn write(self, stream: u32, mut to: impl Write) -> io::Result<()> {
        let kind = self.kind();
        let payload = self.into_payload()?;
        let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= MAX_PAYLOAD);
        let Some(length) = length else {
            let cause = format!("control message of {} bytes is longer than {MAX_PAYLOAD}", payload.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
        };
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend(length.to_le_bytes());
        frame.extend(stream.to_le_bytes());
        frame.extend([kind, 0, 0, 0]);
        frame.extend(payload);
        to.write_all(&frame)?;
        to.flush()
    }

    /// Reads one frame: its stream and message, or `None` at the end of the stream.
    ///
    /// # Errors
    /// What the reader says, `UnexpectedEof` within a frame, and `InvalidData` for a frame that is not a [`Message`].
    pub fn read(mut from: impl Read) -> io::Result<Option<(u32, Self)>> {
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
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, ..] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD {
            let cause = format!("control message of {length} bytes is longer than {MAX_PAYLOAD}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Some((u32::from_le_bytes([s0, s1, s2, s3]), Self::parse(kind, payload)?)))
    }
}
