//! One cluster for the suite, one migrated database per test, and what a refusal says.

use hapax_testkit::PgCluster;
use hapax_tests::database::{migrated_database, migration_files, prepared_cluster};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Error, NoTls};
use uuid::Uuid;

static CLUSTER: OnceCell<PgCluster> = OnceCell::const_new();

/// The cluster all tests of this process share. It is never dropped; its watchdog stops it when the process ends.
pub(super) async fn cluster() -> &'static PgCluster {
    let start = || async { prepared_cluster().await.expect("the cluster starts") };
    CLUSTER.get_or_init(start).await
}

/// A migrated database of one's own.
pub(super) struct Outbox {
    pub(super) name: String,
    /// A session of the superuser.
    pub(super) db: Client,
}

impl Outbox {
    pub(super) async fn new() -> Self {
        let cluster = cluster().await;
        let name = migrated_database(cluster).await.expect("the migrations apply");
        let db = cluster.client(&name).await.expect("the cluster takes connections");
        Self { name, db }
    }

    /// Another session of the superuser.
    pub(super) async fn session(&self) -> Client {
        cluster().await.client(&self.name).await.expect("the cluster takes connections")
    }

    /// A session of a role that logs in itself (no SET ROLE), member of `group`.
    pub(super) async fn member_of(&self, group: &str) -> Client {
        let user = format!("{group}_of_{}", self.name);
        self.db.batch_execute(&format!("CREATE ROLE {user} LOGIN IN ROLE {group}")).await.expect("the role is made");
        let url = cluster().await.url_for(&self.name, &user);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the member connects");
        tokio::spawn(connection);
        client
    }

    /// One notification to `a@example.org`; further arguments as SQL.
    pub(super) async fn enqueue(&self, arguments: &str) -> Uuid {
        enqueue(&self.db, arguments).await.expect("the notification is accepted")
    }

    /// A number, such as a count.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        number(&self.db, sql).await
    }

    /// The first column of every row, as text, sorted as the query says.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        texts(&self.db, sql).await.expect("the query runs")
    }
}

pub(super) async fn number(db: &Client, sql: &str) -> i64 {
    let row = db.query_one(&format!("SELECT ({sql})::bigint"), &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    row.get(0)
}

pub(super) async fn texts(db: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let rows = db.query(&format!("SELECT t.x::text FROM ({sql}) AS t(x)"), &[]).await?;
    Ok(rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect())
}

/// Enqueues one notification of kind `greeting` to `a@example.org`; `arguments` begin with a comma or are empty.
pub(super) async fn enqueue(db: &Client, arguments: &str) -> Result<Uuid, Error> {
    let sql = format!("SELECT outbox.enqueue(kind => 'greeting', recipients => '{{a@example.org}}' {arguments})");
    Ok(db.query_one(&sql, &[]).await?.get(0))
}

/// The migrations of these numbers, each in a transaction of its own.
pub(super) async fn apply(db: &Client, numbers: std::ops::RangeInclusive<&str>) {
    for file in migration_files().unwrap() {
        let name = file.file_name().unwrap().to_str().unwrap();
        if numbers.contains(&&name[..4]) {
            let sql = std::fs::read_to_string(&file).unwrap();
            db.batch_execute(&format!("BEGIN; {sql}; COMMIT"))
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
    }
}

/// What the server said of an error, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) column: String,
    pub(super) hint: String,
}

impl Refusal {
    pub(super) fn of(error: &Error) -> Self {
        let said = error.as_db_error().unwrap_or_else(|| panic!("not the server's error: {error:?}"));
        Self {
            code: said.code().code().to_owned(),
            message: said.message().to_owned(),
            column: said.column().unwrap_or_default().to_owned(),
            hint: said.hint().unwrap_or_default().to_owned(),
        }
    }
}

/// Everything the client is told about an error, in one text.
pub(super) fn everything_said(error: &Error) -> String {
    format!("{:?}", error.as_db_error())
}
