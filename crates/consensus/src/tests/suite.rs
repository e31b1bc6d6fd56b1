//! The storage suite that the engine's authors ship, against the real file.

use std::sync::Arc;

use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::harness::{A, Journal};
use crate::event::Teller;
use crate::log::Log;
use crate::runtime::Live;
use crate::state::{Desk, State, StateParts, Telling};
use crate::types::Types;
use crate::writer::Writer;
use crate::{Limits, LogFile};

struct OnFile;

impl StoreBuilder<Types<Live>, Log<Live>, State<Live>, TempDir> for OnFile {
    async fn build(
        &self,
    ) -> Result<(TempDir, Log<Live>, State<Live>), openraft::StorageError<Types<Live>>> {
        let dir = TempDir::new().expect("a directory");
        let disk = LogFile::new(dir.path().join("log"), A, Limits::default());
        let (teller, _) = Teller::new();
        let (writer, image) = Writer::<Live>::start(Box::new(disk), teller.clone())
            .await
            .expect("an empty log");
        let log = Log::open(&image, writer.clone(), Arc::new(())).expect("an empty log");
        let state = State::new(StateParts {
            machine: Box::new(Journal::default()),
            rules: Arc::new(()),
            desk: Desk::new(),
            snapshot: None,
            writer,
            teller,
            telling: Arc::new(Telling::default()),
        });
        Ok((dir, log, state))
    }
}

#[tokio::test]
async fn the_log_keeps_the_engines_contract() {
    Suite::test_all(OnFile).await.expect("the suite passes");
}
