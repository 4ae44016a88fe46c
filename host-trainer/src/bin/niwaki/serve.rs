//! `niwaki serve`: lets other computers train on a device of this one.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;

/// Arguments of `niwaki serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
In builds with the feature `remote`. Clients send operations on tensors and wait for few results: a network with a
short delay matters more than a fast one. Messages are not encrypted. Where the environment variable NIWAKI_TOKEN
is set, only clients with the same one are served.

Examples:
  niwaki serve --device cuda:0 --listen 0.0.0.0:3000
  niwaki train --data fashion-mnist --device remote:ws://gpu:3000")]
pub(crate) struct ServeArgs {
    /// Device to serve: auto, flex (CPU), cuda:N, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
}

/// Runs `niwaki serve`, until it is told to end.
#[cfg(feature = "remote")]
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    use anyhow::Context;
    use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
    use niwaki::sparse::{self, TOKEN_VARIABLE};

    let mut server = RemoteServer::new([sparse::device(&args.device)?]);
    if let Ok(token) = std::env::var(TOKEN_VARIABLE) {
        let authorizer = TokenAuthorizer::new(token)
            .with_context(|| format!("the variable {TOKEN_VARIABLE} is empty"))?;
        server = server.with_authorizer(authorizer);
    }
    let listener = std::net::TcpListener::bind(args.listen)
        .with_context(|| format!("listening on {}; see --listen", args.listen))?;
    eprintln!("serving {} at ws://{}", args.device, listener.local_addr()?);
    server.serve(WebSocketTransport::from_listener(listener)).context("serving the device")
}

/// Says what is missing.
#[cfg(not(feature = "remote"))]
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    anyhow::bail!(
        "this build cannot serve {} at {}; build it with `--features remote`",
        args.device,
        args.listen
    )
}
