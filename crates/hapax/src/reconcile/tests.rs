//! Logs as Postfix writes them, and what they mean for a doubt.

use hapax_store::inspect::{Address, Doubtful};
use uuid::{Timestamp, Uuid};

use super::{
    judge::{Judgement, Terms, judge},
    search::{Found, Nonsense, Search},
    time::{Clock, iso},
};

/// 2026-11-26T10:31:02Z: when every doubt's intent was written.
const INTENT: i64 = 1_795_689_062;
const OVER: i64 = INTENT + 900;
const NOW: i64 = INTENT + 7200;

fn id() -> Uuid {
    Uuid::new_v7(Timestamp::from_unix(uuid::NoContext, u64::try_from(INTENT - 1).expect("positive"), 0))
}

/// A doubt of a message to these recipients, the first of which is its own.
fn doubt(recipients: &[&str]) -> Doubtful {
    let id = id();
    Doubtful {
        message_id: id,
        recipient_no: 1,
        token: Uuid::new_v4(),
        recipient: Address::of(recipients[0]),
        masked: "a***@example.org".into(),
        others: recipients[1..].iter().map(|other| Address::of(other)).collect(),
        route: Some("default".into()),
        server: Some("mx1.example.com".into()),
        search_for: format!("message-id=<{id}"),
        may_be_alive: false,
        intents: 1,
        #[expect(clippy::cast_precision_loss, reason = "small")]
        intent_at_s: INTENT as f64,
        #[expect(clippy::cast_precision_loss, reason = "small")]
        over_at_s: OVER as f64,
        #[expect(clippy::cast_precision_loss, reason = "small")]
        now_s: NOW as f64,
        own_id: false,
        namesakes: false,
    }
}

fn search(doubt: &Doubtful, offset: Option<i64>, lines: &[String]) -> Result<Found, Nonsense> {
    let wanted = [doubt.search_for.trim_start_matches("message-id=").to_owned()];
    let mut search = Search::new(wanted, Clock::new(NOW, offset), NOW, 600);
    for line in lines {
        search.line(line)?;
    }
    search.finish()
}

fn decide(doubt: &Doubtful, lines: &[String], terms: &Terms) -> Judgement {
    let found = search(doubt, None, lines).expect("a log");
    judge(doubt, found.traces.get(&0).map_or(&[][..], Vec::as_slice), &found, false, terms)
}

fn terms() -> Terms {
    Terms { servers: vec![], routes: vec![], margin: 600 }
}

fn at(after_s: i64, rest: &str) -> String {
    format!("{} {rest}", iso(INTENT + after_s))
}

/// A log of mx1 from an hour before to an hour and a half after, with a line every five minutes, and these in between.
fn log(host: &str, lines: &[(i64, String)]) -> Vec<String> {
    let quiet = (-12..=18).map(|five| (five * 300, format!("{host} postfix/anvil[9]: statistics: max cache size 1")));
    let mut all: Vec<(i64, String)> = quiet.chain(lines.iter().cloned()).collect();
    // Somebody's mail, so that the log has a Message-ID.
    let other = Uuid::new_v7(Timestamp::from_unix(uuid::NoContext, u64::try_from(INTENT - 1800).expect("positive"), 0));
    all.push((-1799, format!("{host} postfix/cleanup[2]: 1234567890: message-id=<{other}@shop.example>")));
    all.sort_by_key(|(after, _)| *after);
    all.into_iter().map(|(after, rest)| at(after, &rest)).collect()
}

/// One transaction up to its Message-ID.
fn seen(doubt: &Doubtful, after: i64, pid: u32, queue_id: &str) -> Vec<(i64, String)> {
    let id = doubt.message_id;
    vec![
        (after, format!("mx1.example.com postfix/smtpd[{pid}]: connect from app1[192.0.2.7]")),
        (after, format!("mx1.example.com postfix/smtpd[{pid}]: {queue_id}: client=app1[192.0.2.7]")),
        (after, format!("mx1.example.com postfix/cleanup[7]: {queue_id}: message-id=<{id}@shop.example>")),
    ]
}

fn line(after: i64, rest: &str) -> Vec<(i64, String)> {
    vec![(after, format!("mx1.example.com {rest}"))]
}

const QUEUED: &str = "postfix/qmgr[3]: 3F2A51C0D4: from=<a@shop.example>, size=1023, nrcpt=1 (queue active)";

fn sent(queue_id: &str, to: &str) -> String {
    format!(
        "postfix/smtp[5]: {queue_id}: to=<{to}>, relay=mx[192.0.2.9]:25, delay=0.2, dsn=2.0.0, status=sent (250 ok)"
    )
}

#[track_caller]
fn assert_left(judgement: &Judgement, words: &str) {
    assert!(matches!(judgement, Judgement::Left(why) if why.contains(words)), "{judgement:?}");
}

#[test]
fn seen_and_queued_is_accepted_in_any_log_of_any_form_and_instance() {
    let doubt = doubt(&["ada@example.org"]);
    let mine = log("mx1.example.com", &[seen(&doubt, 2, 77, "3F2A51C0D4"), line(2, QUEUED)].concat());
    let Judgement::Accepted(evidence) = decide(&doubt, &mine, &terms()) else { panic!("accepted") };
    assert_eq!(evidence, "mx1.example.com 3F2A51C0D4: queued at 2026-11-26T10:31:04Z");
    let id = doubt.message_id;
    for lines in [
        format!(
            "Nov 26 10:31:04 relay9 postfix-out/cleanup[7]: 4bXy2z1WvTz9rqN: message-id=<{id}@shop.example>\n\
                 Nov 26 10:31:04 relay9 postfix-out/qmgr[3]: 4bXy2z1WvTz9rqN: removed"
        ),
        format!(
            "<22>Nov 26 10:31:04 mx1 postfix/cleanup[7]: 3F2A51C0D4: message-id=<{id}@shop.example>\n\
                 <22>Nov 26 10:31:04 mx1 postfix/{}",
            sent("3F2A51C0D4", "ada@example.org").replace("postfix/", "")
        ),
        format!(
            "2026-11-26T11:31:04.123+01:00 mx1 postfix/cleanup[7]: 3F2A51C0D4: message-id=<{id}@other.example>\n\
                 2026-11-26T11:31:04.223+01:00 mx1 {QUEUED}"
        ),
    ] {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        assert!(matches!(decide(&doubt, &lines, &terms()), Judgement::Accepted(_)), "{lines:?}");
    }
}

#[test]
fn of_one_message_to_three_people_each_is_told_by_its_own_recipient() {
    let people = ["ada@example.org", "bob@example.org", "eve@example.org"];
    let ada = doubt(&people);
    let bobs =
        [seen(&ada, 2, 77, "3F2A51C0D4"), line(2, QUEUED), line(3, &sent("3F2A51C0D4", "bob@example.org"))].concat();
    // Bob's says nothing about Ada's: it was never seen.
    let found = decide(&ada, &log("mx1.example.com", &bobs), &terms());
    assert!(matches!(found, Judgement::NotSent(_)), "{found:?}");
    // Ada's, behind an alias.
    let alias = sent("AAAA51C0D4", "root@inner.example").replace(", relay", ", orig_to=<Ada@Example.org>, relay");
    let adas = [bobs.clone(), seen(&ada, 4, 78, "AAAA51C0D4"), line(5, &alias)].concat();
    assert!(matches!(decide(&ada, &log("mx1.example.com", &adas), &terms()), Judgement::Accepted(_)));
    // Queued, but for whom is not in the log yet.
    let open = [bobs.clone(), seen(&ada, 4, 78, "AAAA51C0D4"), line(5, &QUEUED.replace("3F2A", "AAAA"))].concat();
    assert_left(&decide(&ada, &log("mx1.example.com", &open), &terms()), "no line says for which");
    // For somebody the message does not know: rewritten.
    let strange =
        [bobs.clone(), seen(&ada, 4, 78, "AAAA51C0D4"), line(5, &sent("AAAA51C0D4", "x@inner.example"))].concat();
    assert_left(&decide(&ada, &log("mx1.example.com", &strange), &terms()), "no line says for which");
    // Twice for Bob: one of them may have been Ada's.
    let twice = [bobs, seen(&ada, 4, 78, "AAAA51C0D4"), line(5, &sent("AAAA51C0D4", "bob@example.org"))].concat();
    assert_left(&decide(&ada, &log("mx1.example.com", &twice), &terms()), "2 times for another recipient");
}

#[test]
fn refused_or_given_up_before_its_end_is_not_sent() {
    let doubt = doubt(&["ada@example.org"]);
    let milter = "postfix/cleanup[7]: 3F2A51C0D4: milter-reject: END-OF-MESSAGE from app1[192.0.2.7]: 4.7.1 x; from=<> to=<ada@example.org> proto=ESMTP helo=<a>";
    for (end, words) in [
        (milter, "refused"),
        ("postfix/smtpd[77]: lost connection after DATA (1234 bytes) from app1[192.0.2.7]", "given up"),
    ] {
        let lines = log("mx1.example.com", &[seen(&doubt, 2, 77, "3F2A51C0D4"), line(3, end)].concat());
        let judgement = decide(&doubt, &lines, &terms());
        assert!(matches!(&judgement, Judgement::NotSent(why) if why.contains(words)), "{judgement:?}");
        // Where it does not decide, it is named all the same.
        let alive = Doubtful { may_be_alive: true, ..doubt.clone() };
        let Judgement::Left(why) = decide(&alive, &lines, &terms()) else { panic!("left") };
        assert!(why.starts_with("mx1.example.com 3F2A51C0D4: ") && why.contains(words), "{why}");
        assert!(why.ends_with(", but its attempt may still be alive"), "{why}");
        // Another copy of it was queued: that outranks it.
        let both = [
            seen(&doubt, 2, 77, "3F2A51C0D4"),
            line(3, end),
            seen(&doubt, 4, 78, "BBBB51C0D4"),
            line(4, &QUEUED.replace("3F2A", "BBBB")),
        ];
        assert!(matches!(decide(&doubt, &log("mx1.example.com", &both.concat()), &terms()), Judgement::Accepted(_)));
    }
    // As a real Postfix often does it: the header is handed over only when the connection is lost.
    let mut late = seen(&doubt, 2, 77, "3F2A51C0D4");
    late.insert(2, line(2, "postfix/smtpd[77]: lost connection after DATA (331 bytes) from app1[192.0.2.7]").remove(0));
    assert!(matches!(decide(&doubt, &log("mx1.example.com", &late), &terms()), Judgement::NotSent(_)));
    // The connection that was lost was another's: the process had taken the next one on.
    for undecided in [
        line(3, "postfix/smtpd[78]: lost connection after DATA (1234 bytes) from app1[192.0.2.7]"),
        line(3, "postfix/smtpd[77]: lost connection after END-OF-MESSAGE from app1[192.0.2.7]"),
        line(
            3,
            "postfix/cleanup[7]: 3F2A51C0D4: hold: header Subject: x from app1[192.0.2.7]; from=<> to=<a@b.c> proto=ESMTP helo=<x>",
        ),
        vec![],
        [
            line(3, "postfix/smtpd[77]: 9999999999: client=app1[192.0.2.7]"),
            line(4, "postfix/smtpd[77]: lost connection after DATA (1234 bytes) from app1[192.0.2.7]"),
        ]
        .concat(),
    ] {
        let lines = log("mx1.example.com", &[seen(&doubt, 2, 77, "3F2A51C0D4"), undecided].concat());
        assert_left(&decide(&doubt, &lines, &terms()), "mx1.example.com 3F2A51C0D4: ");
    }
}

#[test]
fn a_queue_id_that_is_used_again_speaks_for_another_message() {
    let doubt = doubt(&["ada@example.org"]);
    let again = [
        seen(&doubt, 2, 77, "3F2A51C0D4"),
        line(3, "postfix/smtpd[77]: lost connection after DATA (0 bytes) from app1[192.0.2.7]"),
        line(4, "postfix/smtpd[79]: 3F2A51C0D4: client=app2[192.0.2.8]"),
        line(4, "postfix/cleanup[7]: 3F2A51C0D4: message-id=<other@example.net>"),
        line(4, QUEUED),
        line(5, "postfix/qmgr[3]: 3F2A51C0D4: removed"),
    ];
    assert!(matches!(decide(&doubt, &log("mx1.example.com", &again.concat()), &terms()), Judgement::NotSent(_)));
}

#[test]
fn nothing_seen_is_not_sent_only_in_the_complete_log_of_that_server() {
    let ada = doubt(&["ada@example.org"]);
    let whole = log("mx1.example.com", &[]);
    let judgement = decide(&ada, &whole, &terms());
    assert!(matches!(&judgement, Judgement::NotSent(why) if why.contains("2026-11-26T10:21:02Z")), "{judgement:?}");
    // Alive.
    let alive = Doubtful { may_be_alive: true, ..ada.clone() };
    assert_left(&decide(&alive, &whole, &terms()), "may still be alive");
    // Another server's log, or a short name, or nobody knows where it went; and what is asserted.
    let other = log("mx2.example.com", &[]);
    assert_left(&decide(&ada, &other, &terms()), "--server mx1.example.com");
    assert_left(&decide(&ada, &log("mx1", &[]), &terms()), "--server mx1.example.com");
    // As an attempt knows its server: its greeting's name, or its host, are the log's; and what is advised can be typed.
    let greeted = Doubtful { server: Some("smtp.example.com:587 (mx1.example.com)".into()), ..ada.clone() };
    for host in ["mx1.example.com", "smtp.example.com"] {
        let judgement = decide(&greeted, &log(host, &[]), &terms());
        assert!(matches!(judgement, Judgement::NotSent(_)), "{judgement:?}");
    }
    let Judgement::Left(why) = decide(&greeted, &log("mx1", &[]), &terms()) else { panic!("left") };
    assert!(why.ends_with(": --server mx1.example.com"), "{why}");
    let given = Terms { servers: vec!["MX1.example.com".into()], ..terms() };
    assert!(matches!(decide(&greeted, &log("mx1", &[]), &given), Judgement::NotSent(_)));
    let nowhere = Doubtful { server: None, ..ada.clone() };
    assert_left(&decide(&nowhere, &whole, &terms()), "--route default");
    let server = Terms { servers: vec!["MX1.example.com".into()], ..terms() };
    let route = Terms { routes: vec!["default".into()], ..terms() };
    assert!(matches!(decide(&ada, &other, &server), Judgement::NotSent(_)));
    assert!(matches!(decide(&nowhere, &other, &route), Judgement::NotSent(_)));
    assert_left(&decide(&nowhere, &other, &server), "where it went is not known");
    // Too short at either end, a gap, lost lines, a filter in front.
    let from = |after: i64| whole.iter().filter(|line| **line >= at(after, "")).cloned().collect::<Vec<_>>();
    let until = |after: i64| whole.iter().filter(|line| **line <= at(after, "")).cloned().collect::<Vec<_>>();
    assert_left(&decide(&ada, &until(1200), &terms()), "ends at");
    assert!(matches!(decide(&ada, &until(1501), &terms()), Judgement::NotSent(_)));
    let late =
        [from(-300), vec![at(5500, "mx1.example.com postfix/cleanup[1]: ABCDEF0123: message-id=<x@y>")]].concat();
    assert_left(&decide(&ada, &late, &terms()), "begins at");
    let gap: Vec<String> = [until(0), from(900)].concat();
    assert_left(&decide(&ada, &gap, &terms()), "silent from");
    let lost = "mx1.example.com rsyslogd[7]: imuxsock lost 132 messages from pid 99 due to rate-limiting";
    let holes = log("mx1.example.com", &[(60, lost.to_owned())]);
    assert_left(&decide(&ada, &holes, &terms()), "lost lines");
    let torn: Vec<String> = [until(60), vec!["\0\0\0\0".to_owned()], from(61)].concat();
    assert_left(&decide(&ada, &torn, &terms()), "lost lines");
    let proxy = line(60, "postfix/smtpd[77]: NOQUEUE: proxy-accept: END-OF-MESSAGE: 250 ok; from=<> to=<x@y.z>");
    assert_left(&decide(&ada, &log("mx1.example.com", &proxy), &terms()), "a filter");
    // Two hosts behind the asserted name: each must cover.
    let both = [whole.clone(), until(600).iter().map(|l| l.replace("mx1", "mx2")).collect()].concat();
    assert_left(&decide(&ada, &both, &server), "mx2.example.com ends at");
}

#[test]
fn times_without_zone_or_year_prove_nothing_until_they_are_told_and_fit() {
    let ada = doubt(&["ada@example.org"]);
    // The same log with traditional times, in a zone an hour east.
    let traditional = |shift: i64| -> Vec<String> {
        let lines = log("mx1.example.com", &[]);
        let written = |line: &String| {
            let (stamp, rest) = Clock::new(NOW, None).read(line).expect("a time");
            let text = iso(stamp.seconds + shift);
            format!("Nov {} {} {rest}", &text[8..10], &text[11..19])
        };
        lines.iter().map(written).collect()
    };
    let judged = |offset: Option<i64>, lines: &[String]| {
        let found = search(&ada, offset, lines).expect("a log");
        judge(&ada, &[], &found, false, &terms())
    };
    let east = traditional(3600);
    assert_left(&judged(None, &east), "--utc-offset");
    assert!(matches!(judged(Some(3600), &east), Judgement::NotSent(_)));
    // A wrong offset would move the window: the ids of our own messages, which hold their time, betray it.
    assert_left(&judged(Some(0), &east), "in the future"); // a log of the next hour, as it seems
    assert_left(&judged(Some(5400), &east), "before it was made");
    assert_left(&judged(Some(1800), &east), "within 1801 s after it was made");
    // None of our messages: nothing to check by.
    let anonymous: Vec<String> =
        east.iter().map(|line| line.replace("message-id=<", "message-id=<x-").clone()).collect();
    assert_left(&judged(Some(3600), &anonymous), "no other message of this outbox");
}

#[test]
fn a_log_with_lines_in_the_future_is_no_proof_that_nothing_was_sent() {
    let ada = doubt(&["ada@example.org"]);
    let until_now = NOW - INTENT;
    let lines = |last: i64| {
        let anvil = |at: i64| (at, "mx1.example.com postfix/anvil[9]: statistics: max cache size 1".to_owned());
        log("mx1.example.com", &(19..24).map(|five| anvil(five * 300)).chain([anvil(last)]).collect::<Vec<_>>())
    };
    let judgement = decide(&ada, &lines(until_now + 119), &terms());
    assert!(matches!(judgement, Judgement::NotSent(_)), "{judgement:?}");
    let ahead = lines(until_now + 121);
    assert_left(&decide(&ada, &ahead, &terms()), "in the future: its clock or the --utc-offset is wrong");
    let asserted = Terms { servers: vec!["mx1.example.com".into()], ..terms() };
    assert_left(&decide(&ada, &ahead, &asserted), "in the future");
    // What it did take, it took.
    let queued = [seen(&ada, 2, 77, "3F2A51C0D4"), line(2, QUEUED), line(until_now + 3000, QUEUED)].concat();
    assert!(matches!(decide(&ada, &log("mx1.example.com", &queued), &terms()), Judgement::Accepted(_)));
}

#[test]
fn a_message_id_that_was_brought_and_is_shared_decides_nothing() {
    let mut own = doubt(&["ada@example.org"]);
    own.own_id = true;
    own.search_for = "message-id=<abc@app.example.org>".into();
    let mine: Vec<(i64, String)> = seen(&own, 2, 77, "3F2A51C0D4")
        .into_iter()
        .map(|(at, text)| (at, text.replace(&format!("{}@shop.example", own.message_id), "abc@app.example.org")))
        .collect();
    let queued = [mine.clone(), line(2, QUEUED), line(3, &sent("3F2A51C0D4", "ada@example.org"))].concat();
    let lines = log("mx1.example.com", &queued);
    assert!(matches!(decide(&own, &lines, &terms()), Judgement::Accepted(_)));
    // Two hours before this attempt: somebody else's, with the same Message-ID.
    let later = Doubtful { intent_at_s: own.intent_at_s + 7200.0, over_at_s: own.over_at_s + 7200.0, ..own.clone() };
    assert_left(&decide(&later, &lines, &terms()), "before this attempt");
    let namesake = Doubtful { namesakes: true, ..own.clone() };
    assert_left(&decide(&namesake, &lines, &terms()), "cannot tell them apart");
    let found = search(&own, None, &lines).expect("a log");
    assert_left(&judge(&own, &found.traces[&0], &found, true, &terms()), "cannot tell them apart");
    assert_left(&decide(&own, &log("mx1.example.com", &[]), &terms()), "brought its own Message-ID");
}

#[test]
fn what_is_no_log_of_postfix_is_refused_with_the_reason() {
    let ada = doubt(&["ada@example.org"]);
    let of = |lines: &[&str]| search(&ada, Some(0), &lines.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(of(&[]).err(), Some(Nonsense::NoPostfix));
    assert_eq!(of(&["Nov 26 10:31:02 mx1 sshd[1]: Accepted"]).err(), Some(Nonsense::NoPostfix));
    let quiet = "Nov 26 10:31:02 mx1 postfix/qmgr[1]: 3F2A51C0D4: removed";
    assert_eq!(of(&[quiet]).err(), Some(Nonsense::NoMessageId));
    assert_eq!(of(&["hello", "world"]).err(), Some(Nonsense::Unreadable { line: 1 }));
    assert_eq!(of(&["x"; 1000]).err(), Some(Nonsense::Unreadable { line: 200 }));
    let back = of(&[quiet, "Nov 26 09:31:02 mx1 postfix/qmgr[1]: 3F2A51C0D4: removed"]);
    assert_eq!(back.err(), Some(Nonsense::Disorder { line: 2, host: "mx1".into(), seconds: 3600 }));
    let future = of(&["2027-11-26T10:31:02Z mx1 postfix/qmgr[1]: 3F2A51C0D4: removed"]);
    assert_eq!(future.err(), Some(Nonsense::Future { line: 1 }));
    // A little disorder, and other hosts' clocks, are life.
    let id = "Nov 26 10:30:32 mx1 postfix/cleanup[1]: 3F2A51C0D4: message-id=<x@y>";
    assert!(of(&[quiet, id, "Nov 26 08:30:32 mx2 postfix/qmgr[1]: 3F2A51C0D4: removed"]).is_ok());
}
