//! `holdfast kube stop` and `start`: Kubernetes on this node, for work on the datastore of the others.

use super::snapshots::begun;
use crate::failure::Failure;
use crate::output::Context;
use holdfast_api::local::StartInput;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Put this server's datastore aside and join that of the others, after a restore on one of
    /// them.
    #[arg(long)]
    rejoin: bool,
}

pub(super) async fn stop(context: &Context) -> Result<u8, Failure> {
    context.manager().stop().await?;
    begun(context, "Kubernetes is stopped on this node, also after a reboot.", "start")
}

pub(super) async fn start(context: &Context, args: &Args) -> Result<u8, Failure> {
    let input = StartInput { rejoin: args.rejoin };
    context.manager().send("/v1/kubernetes/start", &input).await?;
    begun(context, "Kubernetes is started.", "status --wait")
}
