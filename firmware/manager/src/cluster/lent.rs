//! What the manager lends the services of `holdfast-cluster`.

use holdfast_cluster::distribution::Fetch;
use holdfast_cluster::distribution::binary::Download;
use holdfast_cluster::download;

/// Fetches by HTTPS.
pub(super) struct Https;

impl Fetch for Https {
    fn fetch<'a>(
        &'a self,
        url: &'a str,
        start: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Download, String>> + Send + 'a>> {
        Box::pin(async move {
            let arriving = download::fetch(url, start).await?;
            let download::Arriving { start, length, content } = arriving;
            Ok(Download { start, length, content })
        })
    }
}
