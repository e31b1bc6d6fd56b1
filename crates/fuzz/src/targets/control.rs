//! The control socket: what clients ask, what daemons answer, and how answers are shown.

use evenkeel_console::api::v1::{Answer, REQUEST_LENGTH_MAX, Request};
use evenkeel_console::{client, doctor, plan, view};

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "control",
    reads: "requests (daemon, other nodes' too) and answers (client)",
    seeds,
    judge,
    length_max: REQUEST_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 512,
    mutants: 10_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"do":"status"}"#,
        r#"{"do":"switch","group":"www","to":"fra1","force":true}"#,
        r#"{"do":"drain","node":"ams1","for_ms":3600000}"#,
        r#"{"do":"reload","node":"ams1","step":{"apply":{"digest":"00ff"}}}"#,
        r#"{"do":"recover","stopped":["fra1","tie"]}"#,
        r#"{"status":{"cluster":"shop","node":"ams1","leader":"tie","quorum":true,"groups":[{"name":"www","holder":"ams1","epoch":3,"state":"serving","since":"x","addresses":["192.0.2.100/24"],"guard":"full","protected":true,"next":"fra1","nodes":[{"name":"ams1","ready":true,"reason":"well","checks":[{"name":"apache","state":"failing","age_ms":30,"detail":"no answer","measures":[{"label":"rta","value":0.05,"unit":"ms"}]}]}]}],"nodes":[{"name":"tie","alive":true,"witness":true,"rtt_ms":0.2,"note":"refused"}],"advice":["look"]}}"#,
        r#"{"why":[{"group":"www","epoch":3,"at":"x","from":"fra1","to":"ams1","cause":"rule","because":"its rule holds","decided_by":"tie","known_for_ms":1.5,"evidence":["HTTP 503"],"considered":["ams1: well"],"phases":[{"what":"open","after_ms":3.5}],"completed":true}]}"#,
        r#"{"plan":{"failure":"node:ams1","failure_words":"ams1 dies","at":"x","asked":"tie","decider":"tie","elected":false,"votes":["tie"],"needed":2,"voters":3,"groups":[{"name":"www","holder":"ams1","outcome":"moves","to":"fra1","cause":"holder-silent","because":"x","note":null,"serves":"fra1","dark_ms":{"least":90,"most":150},"next":null,"protected":false,"considered":[]}]}}"#,
        r#"{"doctor":{"node":"ams1","cluster":"shop","verdict":"reduced","daemon":true,"findings":[{"area":"guard","severity":"reduced","place":"eth0","what":"no eBPF","remedy":"a newer kernel"}]}}"#,
        r#"{"refused":"it is not known"}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

fn judge(input: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let again = serde_json::to_vec(&request).expect("it can be written");
        let again = serde_json::from_slice::<Request>(&again).expect("and read");
        assert_eq!(again, request, "what is read is written");
        assert_eq!(again.changes(), request.changes());
    }
    let Ok(answer) = client::answer(input) else {
        return;
    };
    let shown = match &answer {
        Answer::Status(status) => view::status(status),
        Answer::Why(moves) => view::why(moves),
        Answer::Plan(forecast) => plan::text(forecast),
        Answer::Doctor(found) => doctor::text(found),
        Answer::Done(text) | Answer::Refused(text) => text.clone(),
        Answer::Reload(reload) => reload.text.clone(),
    };
    // What nodes say of each other must not speak to the terminal of whoever looks.
    let speaks = |c: char| c.is_control() && c != '\n';
    assert!(!shown.chars().any(speaks), "{shown:?}");
}
