//! `psld completions`.

use crate::args::command;
use crate::report;
use clap::Args;
use psld::{Error, Result, Status};

#[derive(Args)]
#[command(after_help = "\
For bash, in ~/.bashrc: source <(psld completions bash). For zsh: write it to a file _psld in a folder of $fpath. For fish: \
write it to ~/.config/fish/completions/psld.fish. `make install` puts all of them where the shells look.")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

pub fn run(args: CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "psld", &mut text);
    let text = String::from_utf8(text)
        .map_err(|e| Error::new(Status::Internal, "the completions are no UTF-8").source(e))?;
    report::stdout(&text)
}
