//! `psld completions`.

use crate::args::{CompletionsArgs, command};
use crate::report;
use psld::{Error, Result, Status};

pub fn run(args: CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "psld", &mut text);
    let text = String::from_utf8(text)
        .map_err(|e| Error::new(Status::Internal, "the completions are no UTF-8").source(e))?;
    report::stdout(&text)
}
