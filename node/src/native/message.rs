//! From received bytes to requests: pure, and the first to look at what clients send.
//!
//! A header is verified before anything it says is believed, its size compared with the limit
//! before anything waits for its body, and the body with the header before it is looked into. So
//! no byte of a client reserves more than the largest request takes.

use wire::message::Request;
use wire::operation::Opcode;
use wire::read::{ReadError, Reads};
use wire::request::{REQUEST_HEADER_SIZE, SESSION_SIZE};
use wire::{
    ClusterId, Command, ErrorCode, HEADER_SIZE, Header, HeaderError, Operations, RequestError,
};

/// Why bytes are no request that can be answered by itself: the connection ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No header or body that can be believed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Another message than a request.
    #[error("a {0:?} from a client, which sends requests")]
    Command(Command),
    /// A request for another cluster.
    #[error("a request for cluster {theirs:?}, this node is of {ours:?}")]
    Cluster {
        /// This node's.
        ours: ClusterId,
        /// The request's.
        theirs: ClusterId,
    },
    /// More than a request may have.
    #[error("a request of {size} bytes, at most {most} are taken")]
    TooLarge {
        /// Bytes of header and body.
        size: usize,
        /// The limit.
        most: usize,
    },
    /// Its operations are malformed.
    #[error(transparent)]
    Operations(#[from] RequestError),
    /// Its reads are malformed.
    #[error(transparent)]
    Reads(ReadError),
    /// Fields that contradict each other.
    #[error("{0}")]
    Request(&'static str),
}

impl Fault {
    /// What the client is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Fault::Header(HeaderError::Protocol { .. }) => ErrorCode::WrongProtocol,
            Fault::Header(HeaderError::Checksum { .. } | HeaderError::BodyChecksum { .. }) => {
                ErrorCode::BadChecksum
            }
            Fault::Cluster { .. } => ErrorCode::WrongCluster,
            Fault::TooLarge { .. } => ErrorCode::TooLarge,
            Fault::Header(_)
            | Fault::Command(_)
            | Fault::Operations(_)
            | Fault::Reads(_)
            | Fault::Request(_) => ErrorCode::BadRequest,
        }
    }
}

/// What a client's messages are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// This node's cluster.
    pub cluster: ClusterId,
    /// Bytes of the largest request, header included.
    pub request_max: usize,
    /// The longest value.
    pub value_max: usize,
}

impl Limits {
    /// Those of a node whose prepares have at most so many bytes.
    #[must_use]
    pub fn new(cluster: ClusterId, prepare_size_max: usize, value_max: usize) -> Limits {
        // In the log a request has a header of its own in place of the message's.
        let request_max = prepare_size_max - REQUEST_HEADER_SIZE - SESSION_SIZE;
        Limits { cluster, request_max, value_max }
    }
}

/// What a request asks for.
#[derive(Debug)]
pub enum Asked<'a> {
    /// A session.
    Register(Operations<'a>),
    /// Operations of a session.
    Write(Operations<'a>),
    /// Reads.
    Read(Reads<'a>),
    /// Reads that are refused by themselves.
    RefusedRead(ErrorCode, &'static str),
    /// Operations that are refused by themselves, and whose number is taken.
    RefusedWrite(ErrorCode),
}

/// What the received bytes begin with.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A request of so many bytes.
    Request(Request, Asked<'a>, usize),
    /// Not all of one: so many bytes have to be there first.
    Incomplete(usize),
}

/// Looks at what was received.
///
/// # Errors
/// [`Fault`]: the connection is worth nothing from here on.
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Progress<'a>, Fault> {
    if bytes.len() < HEADER_SIZE {
        return Ok(Progress::Incomplete(HEADER_SIZE));
    }
    let header = Header::verify(bytes)?;
    let Some(request) = header.tail::<Request>() else {
        return Err(Fault::Command(header.command()));
    };
    if header.cluster() != limits.cluster {
        return Err(Fault::Cluster { ours: limits.cluster, theirs: header.cluster() });
    }
    let (size, most) = (header.size(), limits.request_max);
    if size > most {
        return Err(Fault::TooLarge { size, most });
    }
    if bytes.len() < size {
        return Ok(Progress::Incomplete(size));
    }
    let body = &bytes[HEADER_SIZE..size];
    header.verify_body(body)?;
    let asked = look(&request, body, limits)?;
    Ok(Progress::Request(request, asked, size))
}

fn look<'a>(request: &Request, body: &'a [u8], limits: &Limits) -> Result<Asked<'a>, Fault> {
    if request.operation_count == 0 {
        return Err(Fault::Request("a request without operations"));
    }
    if request.read_level > 2 {
        return Err(Fault::Request("a read level that is none"));
    }
    if Reads::are_in(body) {
        return look_at_reads(request, body);
    }
    let operations = Operations::verify(body, request.operation_count)?;
    let is_registration = request.number.0 == 0;
    if is_registration != (request.client.0 == 0) {
        return Err(Fault::Request("session and number are both 0, or none of them"));
    }
    if is_registration {
        let mut each = operations.clone();
        return match (each.next(), each.next()) {
            (Some(first), None) if first.opcode == Opcode::Register && first.value.len() == 16 => {
                Ok(Asked::Register(operations))
            }
            _ => Err(Fault::Request("a session is opened by one registration of 16 bytes")),
        };
    }
    if request.acknowledged >= request.number {
        return Err(Fault::Request("a request that is acknowledged already"));
    }
    Ok(check(request, operations, limits))
}

fn look_at_reads<'a>(request: &Request, body: &'a [u8]) -> Result<Asked<'a>, Fault> {
    match Reads::verify(body, request.operation_count) {
        Ok(reads) if reads.clone().any(|get| get.table.0 != 0) => {
            Ok(Asked::RefusedRead(ErrorCode::Unsupported, NO_TABLES))
        }
        Ok(reads) => Ok(Asked::Read(reads)),
        Err(ReadError::Unknown { .. }) => {
            Ok(Asked::RefusedRead(ErrorCode::Unsupported, "of reads this release offers get (64)"))
        }
        Err(error) => Err(Fault::Reads(error)),
    }
}

const NO_TABLES: &str = "tables other than the default one (0) are not offered by this release";

/// Whether what the operations ask for can be given a place in the log.
fn check<'a>(request: &Request, operations: Operations<'a>, limits: &Limits) -> Asked<'a> {
    for operation in operations.clone() {
        if operation.table.0 != 0 {
            return Asked::RefusedWrite(ErrorCode::Unsupported);
        }
        if operation.value.len() > limits.value_max {
            return Asked::RefusedWrite(ErrorCode::TooLarge);
        }
        match operation.opcode {
            Opcode::Register | Opcode::Hold | Opcode::Refuse => {
                return Asked::RefusedWrite(ErrorCode::Unsupported);
            }
            // It has no condition, and concerns every shard.
            Opcode::Flush if request.all_or_none => {
                return Asked::RefusedWrite(ErrorCode::Unsupported);
            }
            _ => {}
        }
    }
    Asked::Write(operations)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::{ClientId, ClientTag, Draft, OperationView, RequestBuilder, RequestNumber, TableId};

    use super::*;

    const LIMITS: Limits = Limits { cluster: ClusterId(7), request_max: 4096, value_max: 100 };

    fn body(opcodes: &[Opcode], size: usize) -> Vec<u8> {
        let (mut bytes, value) = (Vec::new(), vec![1; size]);
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(0)).unwrap();
        for opcode in opcodes {
            let operation = match opcode.has_key() {
                true => OperationView::on_key(*opcode, TableId(0), b"key"),
                false => OperationView::on_table(*opcode, TableId(0)),
            };
            builder.push(&operation.with_value(&value)).unwrap();
        }
        builder.finish();
        bytes.split_off(REQUEST_HEADER_SIZE)
    }

    fn sealed(request: &Request, body: &[u8]) -> Vec<u8> {
        let header = Draft { cluster: ClusterId(7), ..Draft::default() }.seal(request, body);
        [&header.bytes()[..], body].concat()
    }

    fn any_request() -> impl Strategy<Value = Request> {
        (0..3u128, 0..4u64, 0..4u64, 0..5u32, 0..4u8, any::<bool>()).prop_map(
            |(client, number, acknowledged, operation_count, read_level, all_or_none)| Request {
                client: ClientId(client),
                number: RequestNumber(number),
                acknowledged: RequestNumber(acknowledged),
                patience: 0,
                operation_count,
                read_level,
                all_or_none,
            },
        )
    }

    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let opcode = (0..Opcode::ALL.len()).prop_map(|index| Opcode::ALL[index]);
        let good = (prop::collection::vec(opcode, 1..5), prop_oneof![Just(0), Just(16), Just(200)])
            .prop_map(|(opcodes, size)| body(&opcodes, size));
        prop_oneof![4 => good, 1 => prop::collection::vec(any::<u8>(), 0..200)]
    }

    proptest! {
        /// Headers that sum up, with anything in them, over bodies that are nearly right.
        #[test]
        fn what_is_taken_for_a_request_is_one(
            request in any_request(),
            mut body in any_body(),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            cut in any::<prop::sample::Index>(),
        ) {
            if let Some((at, byte)) = damage && !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
            let bytes = sealed(&request, &body);
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert!(!matches!(parse(part, &LIMITS), Ok(Progress::Request(..))));
            let Ok(progress) = parse(&bytes, &LIMITS) else { return Ok(()) };
            let Progress::Request(read, asked, size) = progress else {
                return Err(TestCaseError::fail("all of it is there"));
            };
            prop_assert_eq!((read, size), (request, bytes.len()));
            match asked {
                Asked::Register(operations) => {
                    prop_assert_eq!((request.client.0, request.number.0), (0, 0));
                    prop_assert_eq!(operations.count(), 1);
                }
                Asked::Write(operations) => {
                    prop_assert!(request.client.0 != 0 && request.number > request.acknowledged);
                    prop_assert_eq!(operations.clone().count() as u32, request.operation_count);
                    for operation in operations {
                        prop_assert!(operation.value.len() <= LIMITS.value_max);
                        prop_assert!(!matches!(
                            operation.opcode,
                            Opcode::Register | Opcode::Hold | Opcode::Refuse
                        ));
                    }
                }
                Asked::Read(reads) => {
                    prop_assert_eq!(reads.count() as u32, request.operation_count);
                }
                Asked::RefusedRead(..) => prop_assert!(Reads::are_in(&body)),
                Asked::RefusedWrite(_) => prop_assert!(request.number.0 > 0),
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes, &LIMITS);
        }
    }
}
