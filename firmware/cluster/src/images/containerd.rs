//! containerd's own services, as far as we use them: leases, images, content, version.
//!
//! Numbers and names are those of containerd's `api/services/{leases,images,content,version}/v1`
//! and `api/types/descriptor.proto`, unchanged from 1.6 to 2.x; fields that we neither set nor
//! read are left out. Every call belongs to the namespace `k8s.io`.

use super::channel::Connection;
use std::collections::BTreeMap;
use tonic::{Code, Status};

/// `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Empty {}

/// `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, prost::Message)]
struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    paths: Vec<String>,
}

/// `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Descriptor {
    #[prost(string, tag = "1")]
    pub(super) media_type: String,
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

/// `leases.v1.Lease`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lease {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateLeaseRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateLeaseResponse {
    #[prost(message, optional, tag = "1")]
    lease: Option<Lease>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteLeaseRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    sync: bool,
}

/// `ListRequest` of leases, images and ingests alike: filters in the first field.
#[derive(Clone, PartialEq, prost::Message)]
struct ListRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListLeasesResponse {
    #[prost(message, repeated, tag = "1")]
    leases: Vec<Lease>,
}

/// `leases.v1.Resource`; its type is `content`, `ingests` or `snapshots/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) kind: String,
}

impl Resource {
    /// A piece of content.
    pub(super) fn content(digest: &str) -> Self {
        Self { id: digest.into(), kind: "content".into() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    resource: Option<Resource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListResourcesResponse {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

/// `images.v1.Image`: a name and what it stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub(super) target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetImageRequest {
    #[prost(string, tag = "1")]
    name: String,
}

/// The answer of images' `Get`, `Create` and `Update`; of their questions `Create`'s too.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageMessage {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UpdateImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
    #[prost(message, optional, tag = "2")]
    update_mask: Option<FieldMask>,
}

/// `content.v1.Info`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Info {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(int64, tag = "2")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InfoRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadContentRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadContentResponse {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

/// `content.v1.Status`: content that is on its way.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ingest {
    /// What it is, such as `layer-sha256:…` (remotes/handlers.go, MakeRefKey).
    #[prost(string, tag = "3")]
    pub(super) reference: String,
    /// Bytes that are there.
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListStatusesResponse {
    #[prost(message, repeated, tag = "1")]
    statuses: Vec<Ingest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VersionResponse {
    #[prost(string, tag = "1")]
    version: String,
}

/// containerd's version, such as `1.6.20~ds1` or `v2.0.5-k3s1`.
pub(super) async fn version(connection: &Connection) -> Result<String, Status> {
    let answer: VersionResponse =
        connection.call("/containerd.services.version.v1.Version/Version", Empty {}).await?;
    Ok(answer.version)
}

/// Makes a lease that does not expire; whether it is new.
pub(super) async fn create_lease(
    connection: &Connection,
    id: &str,
    labels: BTreeMap<String, String>,
) -> Result<bool, Status> {
    let question = CreateLeaseRequest { id: id.into(), labels };
    let answer: Result<CreateLeaseResponse, Status> =
        connection.call("/containerd.services.leases.v1.Leases/Create", question).await;
    match answer {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::AlreadyExists => Ok(false),
        Err(status) => Err(status),
    }
}

/// Ends a lease, if there is one. When `collect` is set, what nothing else refers to is gone when
/// this returns.
pub(super) async fn delete_lease(
    connection: &Connection,
    id: &str,
    collect: bool,
) -> Result<(), Status> {
    let question = DeleteLeaseRequest { id: id.into(), sync: collect };
    let answer: Result<Empty, Status> =
        connection.call("/containerd.services.leases.v1.Leases/Delete", question).await;
    gone_is_well(answer)
}

/// Leases that match the filter (containerd's filters package).
pub(super) async fn list_leases(
    connection: &Connection,
    filter: String,
) -> Result<Vec<Lease>, Status> {
    let answer: ListLeasesResponse = connection
        .call("/containerd.services.leases.v1.Leases/List", ListRequest { filters: vec![filter] })
        .await?;
    Ok(answer.leases)
}

/// Adds something to a lease, which need not be there and may be in it already.
pub(super) async fn add_resource(
    connection: &Connection,
    lease: &str,
    resource: Resource,
) -> Result<(), Status> {
    let question = ResourceRequest { id: lease.into(), resource: Some(resource) };
    let _done: Empty =
        connection.call("/containerd.services.leases.v1.Leases/AddResource", question).await?;
    Ok(())
}

/// What belongs to a lease; nothing when there is no such lease.
pub(super) async fn list_resources(
    connection: &Connection,
    lease: &str,
) -> Result<Vec<Resource>, Status> {
    let question = ResourceRequest { id: lease.into(), resource: None };
    let answer: Result<ListResourcesResponse, Status> =
        connection.call("/containerd.services.leases.v1.Leases/ListResources", question).await;
    match answer {
        Ok(answer) => Ok(answer.resources),
        Err(status) if status.code() == Code::NotFound => Ok(Vec::new()),
        Err(status) => Err(status),
    }
}

/// The record of a name.
pub(super) async fn get_image(
    connection: &Connection,
    name: &str,
) -> Result<Option<Image>, Status> {
    let question = GetImageRequest { name: name.into() };
    let answer: Result<ImageMessage, Status> =
        connection.call("/containerd.services.images.v1.Images/Get", question).await;
    match answer {
        Ok(answer) => Ok(answer.image),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Makes a record; whether it is new.
pub(super) async fn create_image(connection: &Connection, image: Image) -> Result<bool, Status> {
    let question = ImageMessage { image: Some(image) };
    let answer: Result<ImageMessage, Status> =
        connection.call("/containerd.services.images.v1.Images/Create", question).await;
    match answer {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::AlreadyExists => Ok(false),
        Err(status) => Err(status),
    }
}

/// Sets labels of a record and leaves the others as they are; an empty one is removed. A record
/// that is gone is well.
pub(super) async fn label_image(
    connection: &Connection,
    name: &str,
    labels: &[(&str, &str)],
) -> Result<(), Status> {
    let image = Image {
        name: name.into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        target: None,
    };
    let paths = labels.iter().map(|(key, _)| format!("labels.{key}")).collect();
    let question =
        UpdateImageRequest { image: Some(image), update_mask: Some(FieldMask { paths }) };
    let answer: Result<ImageMessage, Status> =
        connection.call("/containerd.services.images.v1.Images/Update", question).await;
    gone_is_well(answer)
}

/// How large a piece of content is, if it is there whole.
pub(super) async fn content_size(
    connection: &Connection,
    digest: &str,
) -> Result<Option<u64>, Status> {
    let question = InfoRequest { digest: digest.into() };
    let answer: Result<InfoResponse, Status> =
        connection.call("/containerd.services.content.v1.Content/Info", question).await;
    match answer {
        Ok(answer) => Ok(answer.info.map(|info| bytes(info.size))),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// A piece of content; the caller knows that it is small, and when it has waited long enough.
pub(super) async fn read_content(connection: &Connection, digest: &str) -> Result<Vec<u8>, Status> {
    let question = ReadContentRequest { digest: digest.into() };
    let mut stream: tonic::Streaming<ReadContentResponse> =
        connection.stream("/containerd.services.content.v1.Content/Read", question).await?;
    let mut content = Vec::new();
    while let Some(part) = stream.message().await? {
        content.extend_from_slice(&part.data);
    }
    Ok(content)
}

/// Everything that is being fetched, or was when its registry went.
pub(super) async fn ingests(connection: &Connection) -> Result<Vec<Ingest>, Status> {
    let answer: ListStatusesResponse = connection
        .call(
            "/containerd.services.content.v1.Content/ListStatuses",
            ListRequest { filters: Vec::new() },
        )
        .await?;
    Ok(answer.statuses)
}

/// A count that protobuf has signed; containerd never sends a negative one.
pub(super) fn bytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn gone_is_well<A>(answer: Result<A, Status>) -> Result<(), Status> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}
