//! What must hold of a request before the shard sees it, and how a refusal says that it does not.

use std::sync::Arc;

use codec::batch::Batch;
use codec::error::DecodeError;
use codec::frame::{Hello, Subscribe, VERSION_HIGHEST, VERSION_LOWEST, WireMode, WireStart};
use codec::header::{BatchHeader, ContentKind, HeaderSeed};
use codec::ids::{Epoch, Offset, Partition, Position, Timestamp, TopicId};
use codec::refusal::{Code, Refusal};
use dataplane::session::SubscribeRequest;
use routing::subscription::{Mode, Start};
use routing::topic::TopicFilter;

use super::NativeOptions;
use super::topics::filter_refusal;
use super::window::Window;

/// Whether this server can speak with the client at all.
pub(super) fn check_hello(hello: &Hello<'_>) -> Result<(), Refusal> {
    if hello.version_lowest > VERSION_HIGHEST || hello.version_highest < VERSION_LOWEST {
        let text = format!(
            "versions {VERSION_LOWEST} to {VERSION_HIGHEST} are spoken here, not {} to {}",
            hello.version_lowest, hello.version_highest
        );
        return Err(Refusal::new(Code::UnsupportedVersion, text));
    }
    if hello.credentials_kind != 0 || !hello.credentials.is_empty() {
        let text = format!("credentials of kind {} are not taken", hello.credentials_kind);
        return Err(Refusal::new(Code::Unauthenticated, text));
    }
    if hello.tenant_kind != 0 || !hello.tenant.is_empty() {
        let text = format!("a tenant of kind {} is not known", hello.tenant_kind);
        return Err(Refusal::new(Code::Unauthenticated, text));
    }
    Ok(())
}

/// The batch that fills a publish frame, its header checked.
pub(super) fn batch_of<'a>(bytes: &'a [u8], options: &NativeOptions) -> Result<Batch<'a>, Refusal> {
    let batch = Batch::parse(bytes, HeaderSeed::WIRE).map_err(|error| batch_refusal(&error))?;
    let len = batch.header.batch_len();
    if len != bytes.len() {
        let text = format!("the batch has {len} bytes, its frame {}", bytes.len());
        return Err(Refusal::new(Code::MalformedBatch, text));
    }
    check_unstamped(&batch.header)?;
    check_sequence(&batch.header)?;
    let partition = batch.header.partition;
    if partition != Partition::ANY {
        check_partition(partition, options)?;
    }
    Ok(batch)
}

/// The events of a batch: checksum, structure, and that each one's data is within the limit.
pub(super) fn check_body(batch: &Batch<'_>, options: &NativeOptions) -> Result<(), Refusal> {
    let body = batch.check().map_err(|error| batch_refusal(&error))?;
    let limit = options.event_data_bytes_max as usize;
    // A body within the limit cannot hold data beyond it, which spares most batches the look at each event.
    if batch.body.len() > limit
        && let Some(event) = body.events().find(|event| event.data().len() > limit)
    {
        let value = event.data().len() as u64;
        return Err(Refusal::limit("event data bytes", limit as u64, value));
    }
    Ok(())
}

/// The shard's form of a subscribe frame.
pub(super) fn subscribe_of(
    request: u64,
    wish: &Subscribe<'_>,
    options: &NativeOptions,
) -> Result<SubscribeRequest, Refusal> {
    if Window::is_publish(request) {
        return Err(Refusal::limit("subscription number", (1 << 63) - 1, request));
    }
    let filter = TopicFilter::new(wish.filter).map_err(|error| filter_refusal(&error))?;
    if let Some(group) = wish.group
        && (group.starts_with('$') || group.chars().any(char::is_control))
    {
        let text = format!("group {group:?} starts with '$' or has control characters");
        return Err(Refusal::new(Code::MalformedGroup, text));
    }
    let start = match wish.start {
        WireStart::Default => None,
        WireStart::Tail => Some(Start::Tail),
        WireStart::Earliest => Some(Start::Earliest),
        WireStart::Time(time) => Some(Start::Time(time)),
        WireStart::Offsets(offsets) => {
            if filter.exact_name().is_none() {
                let text = format!("filter {:?} has wildcards", filter.as_str());
                return Err(Refusal::new(Code::StartNeedsTopic, text));
            }
            offsets.iter().try_for_each(|(partition, _)| check_partition(partition, options))?;
            Some(Start::Offsets(offsets.iter().collect()))
        }
    };
    let mode = match wish.mode {
        WireMode::Clustering => Mode::Clustering,
        WireMode::Broadcasting => Mode::Broadcasting,
    };
    let (group, credit) = (wish.group.map(Arc::from), wish.credit);
    Ok(SubscribeRequest { request, group, filter, mode, start, credit })
}

fn check_partition(partition: Partition, options: &NativeOptions) -> Result<(), Refusal> {
    if partition.0 < options.partitions {
        return Ok(());
    }
    let text = format!("partition is {partition}, there are {}", options.partitions);
    Err(Refusal::new(Code::UnknownPartition, text))
}

/// What append stamps must be 0 from a publisher, so that a later version can give it a meaning.
fn check_unstamped(header: &BatchHeader) -> Result<(), Refusal> {
    let field = match header {
        BatchHeader { content: ContentKind::Control, .. } => "content kind",
        BatchHeader { topic: TopicId(0), .. } => "topic number",
        BatchHeader { epoch, .. } if *epoch != Epoch(0) => "epoch",
        BatchHeader { base_position, .. } if *base_position != Position(0) => "base position",
        BatchHeader { base_offset, .. } if *base_offset != Offset(0) => "base offset",
        BatchHeader { durable_end, .. } if *durable_end != Position(0) => "durable end",
        BatchHeader { append_time, .. } if *append_time != Timestamp(0) => "append time",
        _ => return Ok(()),
    };
    Err(Refusal::new(Code::MalformedBatch, format!("batch {field} is not for a publisher to give")))
}

/// A batch with a sequence names its partition: sent again over another connection it must meet the same log.
fn check_sequence(header: &BatchHeader) -> Result<(), Refusal> {
    let text = match (header.publisher_id, header.sequence) {
        (0, 0) => return Ok(()),
        (0, _) | (_, 0) => "a batch has both publisher id and sequence, or neither",
        _ if header.partition == Partition::ANY => {
            "a batch with a sequence must name its partition"
        }
        _ => return Ok(()),
    };
    Err(Refusal::new(Code::MalformedBatch, text))
}

fn batch_refusal(error: &DecodeError) -> Refusal {
    let code = match error {
        DecodeError::Limit { .. } => Code::LimitExceeded,
        DecodeError::NotUtf8 { .. } => Code::NotUtf8,
        _ => Code::MalformedBatch,
    };
    Refusal::new(code, error.to_string())
}
