"""Labels from language models: what of an answer counts, a scripted server on this machine, small local models, and a table with its cache.

Whatever a model or a server does, a report ends with the 18 labels that were answered or with none of them, counted: never with a wrong one.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asapkit import labels, prompts, store
from asapkit.__main__ import main
from asapkit.labels import answers, endpoint
from asapkit.labels.answers import Abstained, Malformed, parse
from asapkit.types import FINDINGS, Refused

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

GOOD = dict(zip(FINDINGS, [1, 0, -1] * 6))
LINE = ",".join(str(v) for v in GOOD.values())
SECRET = "zebra-striped opacity"


def said(content: object) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


class Server:
    """An OpenAI-compatible endpoint that gives scripted replies in turn, the last one for ever: (status, body) or a function of the handler."""

    def __init__(self, *replies):
        self.replies, self.asked, self.headers = list(replies), [], []

    def __enter__(self) -> Server:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.headers.append((self.path, dict(self.headers)))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if callable(reply):
                    return reply(self)
                status, body = reply
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if 300 <= status < 400:
                    self.send_header("Location", "http://192.0.2.1/v1/chat/completions")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def labeller(self, **settings) -> labels.Endpoint:
        return labels.Endpoint(self.url, "scripted", **{"wait_s": 0.001, "timeout_s": 30} | settings)


# --- what of an answer counts


@pytest.mark.parametrize(
    "answer",
    [LINE, LINE.replace(",", ", "), f"\n{LINE} \n", f"```\n{LINE}\n```", f"<think>1,0? 18 of them.</think>\n{LINE}", json.dumps(GOOD),
     json.dumps(dict(reversed(GOOD.items())), indent=1), f"```json\n{json.dumps(GOOD)}\n```"],
)  # fmt: skip
def test_18_values_in_order_or_by_name_are_an_answer(answer):
    assert parse(answer) == GOOD
    assert tuple(parse(answer)) == FINDINGS


@pytest.mark.parametrize(
    "answer",
    [
        "", "I cannot say.", LINE + ",0", LINE[:-3], LINE.replace("1", "2", 1), LINE.replace("-1", "-2", 1), LINE.replace(",", ";"),
        f"Labels: {LINE}", f"{LINE}.", f"{LINE}\n{LINE}", f"[{LINE}]", LINE.replace(",", ",,", 1),
        LINE.replace("1", "1.0", 1), LINE.replace("0", "", 1),
        json.dumps(GOOD)[:-1], json.dumps(GOOD | {"Fracture": 0}), json.dumps({k: v for k, v in GOOD.items() if k != "Emphysema"}),
        json.dumps(GOOD | {"Emphysema": "1"}), json.dumps(GOOD | {"Emphysema": True}), json.dumps(GOOD | {"Emphysema": 1.0}),
        json.dumps(GOOD | {"Emphysema": None}), json.dumps(GOOD | {"Emphysema": [1]}), json.dumps({"findings": GOOD}),
        json.dumps(GOOD)[:-1] + ', "Emphysema": 1}', json.dumps(list(GOOD.values())), "{" * 9999, f"<think>{LINE}", f"<think>{LINE}</think>",
    ],
)  # fmt: skip
def test_anything_else_is_none(answer):
    with pytest.raises(Malformed):
        parse(answer)


@given(st.text(alphabet="-10, 2\n{}[]", max_size=60))
def test_no_text_gives_labels_that_it_does_not_list(text):
    try:
        found = parse(text)
    except Malformed:
        return
    assert [int(v) for v in text.strip().split(",")] == list(found.values())


# --- an endpoint


def test_a_good_answer_is_labels_and_the_request_is_held_to_a_schema():
    with Server((200, said(json.dumps(GOOD)))) as server:
        assert server.labeller(key="token").label("a", "No nodule {x}.", "{findings}") == GOOD
        (asked,), ((path, headers),) = server.asked, server.headers
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer token"
    schema = asked["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["required"] == list(FINDINGS) and schema["schema"]["additionalProperties"] is False
    assert asked["model"] == "scripted" and asked["temperature"] == 0
    assert asked["messages"][1]["content"] == "Findings:\nNo nodule {x}.\n\nImpression:\n{findings}"
    assert all(name in asked["messages"][0]["content"] for name in FINDINGS)


def test_silence_may_be_taken_for_absence():
    with Server((200, said(LINE))) as server:
        found = server.labeller(unmentioned=0).label("a", "x")
    assert found == {f: max(v, 0) for f, v in GOOD.items()}


BAD = {
    "words": (200, said("The report shows nothing.")),
    "17 values": (200, said(LINE[:-3])),
    "19 values": (200, said(LINE + ",1")),
    "a value that is none": (200, said(json.dumps(GOOD | {"Emphysema": 2}))),
    "a name that is none": (200, said(json.dumps({f"{k}s": v for k, v in GOOD.items()}))),
    "no content": (200, said(None)),
    "no choices": (200, {"choices": []}),
    "another shape": (200, ["choices"]),
    "no json": (200, b"<html>busy</html>"),
    "nothing": (200, b""),
    "bytes that are no text": (200, b"\xff\xfe\x00"),
    "500": (500, said(LINE)),
    "429": (429, said(LINE)),
}


@pytest.mark.parametrize("reply", BAD.values(), ids=BAD)
def test_a_bad_answer_is_asked_for_again_then_ends_in_abstention(reply):
    with Server(reply) as server, pytest.raises(Abstained) as why:
        server.labeller().label("a", SECRET)
    assert len(server.asked) == 4, "one try and three retries"
    assert "zebra" not in str(why.value) and "busy" not in str(why.value) and "nothing." not in str(why.value)


@pytest.mark.parametrize("reply", BAD.values(), ids=BAD)
def test_a_good_answer_after_bad_ones_counts(reply):
    with Server(reply, reply, (200, said(json.dumps(GOOD)))) as server:
        assert server.labeller().label("a", "x") == GOOD
    assert len(server.asked) == 3


def test_a_malformed_answer_is_shown_to_the_model_and_a_failed_request_is_just_repeated():
    with Server((200, said("Yes.")), (500, b""), (200, said(LINE))) as server:
        server.labeller().label("a", "x")
    shown = [[turn["role"] for turn in asked["messages"]] for asked in server.asked]
    assert shown == [["system", "user"], ["system", "user", "assistant", "user"], ["system", "user", "assistant", "user"]]
    assert server.asked[1]["messages"][2]["content"] == "Yes."


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 422])
def test_what_a_retry_cannot_mend_is_not_retried_and_redirects_are_not_followed(status):
    with Server((status, said(LINE))) as server, pytest.raises(Abstained, match=f"HTTP {status}") as why:
        server.labeller().label("a", "x")
    assert len(server.asked) == 1
    assert why.value.down == (status not in (400, 422))


def test_waits_double(monkeypatch):
    waited = []
    monkeypatch.setattr(answers.time, "sleep", waited.append)
    with Server((500, b"")) as server, pytest.raises(Abstained):
        server.labeller(wait_s=0.5).label("a", "x")
    assert waited == [0.5, 1, 2]


def test_a_port_where_nobody_listens_is_unreachable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(Abstained, match="unreachable") as why:
        labels.Endpoint(url, "m", wait_s=0.001).label("a", "x")
    assert why.value.down


def silent(handler):
    time.sleep(0.6)


def trickle(handler):
    """Within the limit from byte to byte, beyond it as a whole."""
    body = json.dumps(said(LINE)).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for byte in body:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.02)


def torn(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True


def flood(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(4 * endpoint.LARGEST))
    handler.end_headers()
    try:
        handler.wfile.write(b" " * 4 * endpoint.LARGEST)
    except OSError:
        return


@pytest.mark.parametrize(("reply", "reason"), [(silent, "within 0.2 s"), (trickle, "within 0.2 s"), (torn, "broke"), (flood, "a reply of over")])
def test_a_slow_a_torn_and_an_endless_answer_end_in_abstention(reply, reason):
    with Server(reply) as server, pytest.raises(Abstained, match=reason):
        server.labeller(timeout_s=0.2 if reply in (silent, trickle) else 30, retries=1).label("a", "x")


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com/v1", "http://10.0.0.5:8000/v1", "http://localhost.example.com/v1", "http://192.168.1.7/v1", "http://0.0.0.0:8000/v1",
     "http://localhost@example.com/v1", "http://example.com\\@localhost/v1", "http://[2001:db8::1]/v1", "localhost:8000/v1", "ftp://localhost/v1", "",
     "http:///v1", "http://localhost:port/v1", "http://localhost/v1?to=example.com", "http://local host/v1", "http://2130706433/v1"],
)  # fmt: skip
def test_an_address_that_is_not_this_machines_is_refused_in_one_line(url):
    with pytest.raises(Refused) as why:
        labels.Endpoint(url, "m")
    assert "\n" not in str(why.value) and "url" in str(why.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/v1", "http://LOCALHOST/v1/", "http://127.0.0.1:1/v1", "http://127.9.9.9/v1", "http://[::1]/v1"]
)
def test_this_machine_is_known_by_its_names(url):
    assert labels.Endpoint(url, "m").url == f"{url.rstrip('/')}/chat/completions"


def test_a_remote_address_is_asked_only_when_told_to():
    assert labels.Endpoint("https://models.example/v1", "m", allow_remote=True).url == "https://models.example/v1/chat/completions"
    with pytest.raises(Refused, match="example"):
        labels.Endpoint("https://user@models.example/v1", "m", allow_remote=True)


def test_no_proxy_of_the_environment_is_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with Server((200, said(LINE))) as server:
        assert server.labeller(retries=0).label("a", "x") == GOOD


def test_bad_settings_name_what_is_allowed():
    for settings, message in (
        ({"retries": 9}, "0 to 3"), ({"timeout_s": 0}, "above 0"), ({"unmentioned": 1}, "0, -1"), ({"instructions": "x"}, "mps-ct-v1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            labels.Endpoint("http://localhost/v1", "m", **settings)
    for name, settings, message in (
        ("oracle", {}, "there are rules, huggingface, endpoint"), ("endpoint", {"model": "m"}, "needs url"),
        ("rules", {"model": "m"}, "model is not for"), ("huggingface", {"model": "m", "allow_remote": True}, "allow_remote is not for"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            labels.labeller(name, **settings)


# --- a model in this process


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a random causal model of 30,000 parameters that knows the letters of an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", model_max_length=2048).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=257, n_positions=2048, n_embd=8, n_layer=1, n_head=1, eos_token_id=0, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def speaking(labeller: labels.HuggingFace, *texts: str):
    """The model says these, one after the other; what it was shown is returned."""
    shown, left = [], list(texts)

    def generate(tokens, **_):
        shown.append(labeller.tokenizer.decode(tokens[0]))
        answer = labeller.tokenizer(left.pop(0) if len(left) > 1 else left[0], return_tensors="pt")["input_ids"]
        return torch.cat([tokens, answer, torch.zeros(1, 1, dtype=torch.long)], dim=1)

    labeller.network.generate = generate
    return shown


def test_a_random_model_abstains(tiny):
    labeller = labels.HuggingFace(tiny, max_tokens=8)
    with pytest.raises(Abstained, match="neither 18 values nor an object"):
        labeller.label("a", "No nodule.", "")


def test_a_model_that_answers_is_labels_and_one_that_stumbles_is_asked_again(tiny):
    labeller = labels.HuggingFace(tiny)
    speaking(labeller, LINE)
    assert labeller.label("a", "No nodule.") == GOOD
    shown = speaking(labeller, "eighteen", LINE)
    assert labeller.label("a", "No nodule.") == GOOD
    assert len(shown) == 2 and "assistant: eighteen" in shown[1] and "Findings:\nNo nodule." in shown[0] and "JSON" not in shown[0]


def test_a_model_that_knows_a_conversation_gets_it_in_its_own_form(tiny):
    labeller = labels.HuggingFace(tiny)
    turns = "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}"
    labeller.tokenizer.chat_template = turns + "{% if add_generation_prompt %}[assistant|{% endif %}"
    shown = speaking(labeller, LINE)
    labeller.label("a", "No nodule.", "Normal.")
    assert shown[0].startswith("[system|") and shown[0].endswith("Impression:\nNormal.][assistant|")


def test_a_report_that_does_not_fit_whole_is_not_cut(tiny):
    with pytest.raises(Abstained, match="context of 2048 tokens"):
        labels.HuggingFace(tiny).label("a", "No nodule. " * 300)


def test_a_folder_without_a_model_is_named_and_nothing_is_looked_for_elsewhere(tmp_path):
    for model in (str(tmp_path), "nobody/no-such-model"):
        with pytest.raises(Refused, match="no causal language model of this machine"):
            labels.HuggingFace(model)


# --- a table


class Scripted:
    """A labeller that answers by text: labels, or the Abstained to raise."""

    name = "scripted"

    def __init__(self, answers: dict[str, object], identity: str | None = "scripted 1"):
        self.answers, self.identity, self.asked = answers, identity, []

    def label(self, id, findings, impression=""):
        self.asked.append(id)
        answer = self.answers.get(findings, GOOD)
        if isinstance(answer, Exception):
            raise answer
        return answer


def rows(*texts: str) -> list[tuple[str, str, str]]:
    return [(f"r{n}", text, "") for n, text in enumerate(texts)]


def test_abstentions_are_unknown_in_all_18_and_counted():
    labeller = Scripted({"b": Abstained("HTTP 500"), "c": Abstained("HTTP 500"), "d": {"Emphysema": 1}, "e": GOOD | {"Emphysema": 3}})
    found = labels.label(rows("a", "b", "c", "d", "e"), labeller, progress=False)
    assert found.table.loc["r0"].to_dict() == GOOD
    assert (found.table.loc[["r1", "r2", "r3", "r4"]] == -1).all(axis=None)
    assert set(found.abstained) == {"r1", "r2", "r3", "r4"} and "2 HTTP 500" in str(found) and str(found).startswith("1 of 5 reports")


@pytest.mark.parametrize("workers", [1, 4])
def test_a_text_is_asked_for_once_and_rows_keep_their_order(workers):
    labeller = Scripted({"b": dict.fromkeys(FINDINGS, 0)})
    found = labels.label(rows("a", "b", "a", "a", "b", "c"), labeller, workers=workers, progress=False)
    assert sorted(labeller.asked) == ["r0", "r1", "r5"]
    assert list(found.table.index) == [f"r{n}" for n in range(6)]
    assert (found.table.loc[["r1", "r4"]] == 0).all(axis=None) and found.table.loc["r3"].to_dict() == GOOD


def test_a_stopped_run_goes_on_from_its_cache_which_holds_no_text(tmp_path):
    class Stop(Scripted):
        def label(self, id, findings, impression=""):
            if findings == "stop":
                raise KeyboardInterrupt
            return super().label(id, findings, impression)

    with pytest.raises(KeyboardInterrupt):
        labels.label(rows(SECRET, "b", "stop", "d"), Stop({}), cache=tmp_path, progress=False)
    (file,) = tmp_path.iterdir()
    assert "zebra" not in file.read_text()
    again = Scripted({"b": Abstained("no")})
    found = labels.label(rows(SECRET, "b", "stop", "d"), again, cache=tmp_path, progress=False)
    assert "r0" not in again.asked and "r1" not in again.asked and "r2" in again.asked
    assert not found.abstained and found.cached >= 2
    other = Scripted({}, identity="scripted 2")
    labels.label(rows(SECRET), other, cache=tmp_path, progress=False)
    assert other.asked == ["r0"], "another model or prompt asks anew"


def test_abstentions_are_asked_for_again(tmp_path):
    labels.label(rows("a"), Scripted({"a": Abstained("no")}), cache=tmp_path, progress=False)
    assert not labels.label(rows("a"), Scripted({}), cache=tmp_path, progress=False).abstained


def test_a_torn_and_a_false_line_of_the_cache_are_passed_over(tmp_path):
    labels.label(rows("a", "b"), Scripted({}), cache=tmp_path, progress=False)
    (file,) = tmp_path.iterdir()
    lines = file.read_text().splitlines()
    wrong = [json.dumps(json.loads(lines[1]) | {"labels": values}) for values in ([1] * 17, [2] * 18, [True] * 18, "1" * 18, None)]
    file.write_text("\n".join([lines[0], *wrong, "[]", lines[2][:40]]))
    again = Scripted({})
    found = labels.label(rows("a", "b"), again, cache=tmp_path, progress=False)
    assert again.asked == ["r0", "r1"] and found.table.loc["r0"].to_dict() == GOOD
    assert not labels.label(rows("a", "b"), Scripted({"a": Abstained("no")}), cache=tmp_path, progress=False).abstained


def test_a_dead_labeller_is_not_asked_for_ever():
    labeller = Scripted({str(n): Abstained("unreachable", down=True) for n in range(40)})
    found = labels.label(rows(*map(str, range(40))), labeller, patience=3, progress=False)
    assert len(labeller.asked) == 3 and len(found.abstained) == 40 and "37 not asked" in str(found)
    for n in (2, 5, 8):
        labeller.answers[str(n)] = GOOD
    labeller.answers |= {str(n): GOOD for n in range(9, 40)}
    assert len(labels.label(rows(*map(str, range(40))), labeller, patience=3, progress=False).abstained) == 6


def test_an_id_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="'r0' is there twice"):
        labels.label(rows("a") * 2, Scripted({}), progress=False)


def test_logs_hold_ids_and_no_text(caplog):
    caplog.set_level(logging.DEBUG)
    with Server((200, said(f"I see a {SECRET}.")), (400, said(SECRET))) as server:
        labels.label([("r0", SECRET, "")], server.labeller(retries=0), progress=False)
        labels.label([("r1", SECRET, "")], server.labeller(), progress=False)
    told = caplog.text
    assert "r0" in told and "HTTP 400" in told and "zebra" not in told


# --- files and the command


def test_labels_written_are_labels_read_and_say_where_they_come_from(tmp_path):
    found = labels.label(rows("a", "b"), Scripted({"b": Abstained("HTTP 500")}), progress=False)
    labels.write(found, tmp_path / "deep" / "silver.csv")
    assert labels.read(tmp_path / "deep" / "silver.csv") == {"r0": GOOD, "r1": dict.fromkeys(FINDINGS, -1)}
    about = json.loads((tmp_path / "deep" / "silver.csv.json").read_text())
    assert about["labeller"] == "scripted" and about["abstained"] == 1 and about["why"] == {"HTTP 500": 1} and about["unit"] == "report"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,Emphysema\na,1\n", "needs the columns id"), ("id\na\n", "needs the columns id and findings"),
        ("id,Emphysema,Fracture\na,1,1\n", "Fracture"),
        ("id,Emphysema\na,1\nb,maybe\n", "line 3: Emphysema is 'maybe'"), ("id,Emphysema\na,1\na,0\n", "line 3: a is there twice"),
        ("id,Emphysema\na,\"1\n", "t.csv: line 2: .*quote that is not closed"),
        ("id,Emphysema\na,1,0\n", "line 2: more fields than columns"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused_by_line_and_column(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(Refused, match=message):
        labels.read(tmp_path / "t.csv")


def test_ct_rates_own_tables_are_read(tmp_path):
    (tmp_path / "t.csv").write_text("VolumeName,Emphysema\ntrain_1_a_1.nii.gz,1.0\ntrain_2_a_1.nii.gz,\n")
    assert labels.read(tmp_path / "t.csv") == {"train_1_a_1": {"Emphysema": 1}, "train_2_a_1": {"Emphysema": -1}}
    (tmp_path / "r.csv").write_text('VolumeName,Findings_EN,Impressions_EN\ntrain_1_a_1.nii.gz,"No nodule, no mass.",Not given.\n')
    assert list(labels.reports_of(tmp_path / "r.csv")) == [("train_1_a_1", "No nodule, no mass.", "Not given.")]


def test_from_reports_to_the_labels_of_a_store(toy_store, tmp_path, capsys):
    """The command on a store, its csv into a copy of the store's table through `preprocess --labels`' own function."""
    out = tmp_path / "silver.csv"
    assert main(["label", str(toy_store), str(out)]) == 0
    assert "12 of 12 reports labelled by rules" in capsys.readouterr().out
    table = store.open(toy_store).table
    silver = pd.read_csv(out, index_col="id")
    assert list(silver.columns) == list(FINDINGS) and list(silver.index) == list(table.index)
    assert np.isin(silver.to_numpy(), [1, 0, -1]).all()
    right = (silver == table[list(FINDINGS)]).to_numpy().mean()
    assert right > 0.95, "the phantom's reports state its labels"


def test_preprocess_takes_labels_by_id(tmp_path, caplog):
    from asapkit.config import Config
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    data = cohort.make(tmp_path / "phantom", volumes=3, seed=0, scale="toy", workers=1, progress=False)
    ids = [scan.id for scan in ct_rate.scans(data)]
    pd.DataFrame([[ids[0], *GOOD.values()]], columns=["id", *FINDINGS]).to_csv(tmp_path / "silver.csv", index=False)
    done = ["preprocess", str(data), str(tmp_path / "store"), "--scale", "toy", "--workers", "1"]
    assert main(done) == 0
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / "ct").iterdir()}
    with caplog.at_level(logging.WARNING):
        assert main([*done, "--labels", str(tmp_path / "silver.csv")]) == 0
    assert f"labels 1 of {len(ids)} volumes" in caplog.text
    table = store.open(tmp_path / "store").table
    assert table.loc[ids[0], list(FINDINGS)].to_dict() == GOOD
    assert (table.loc[ids[1:], list(FINDINGS)] == -1).all(axis=None), "labels of two sources are not mixed"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / "ct").iterdir()} == written, "voxels are not written again"
    assert len(table) == len(ids) and Config.at("toy").contract == store.open(tmp_path / "store").contract
    (tmp_path / "other.csv").write_text("id,Emphysema\nelse,1\n")
    assert main([*done, "--labels", str(tmp_path / "other.csv")]) == 1


@pytest.mark.parametrize(("replies", "code"), [([(200, said(LINE))], 0), ([(200, said(LINE)), (200, said("no"))], 2), ([(500, b"")], 1)])
def test_the_command_tells_by_its_exit_code_how_many_abstained(replies, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(answers.time, "sleep", lambda s: None)
    (tmp_path / "r.csv").write_text("id,findings\ncase_1,No nodule.\ncase_2,A nodule.\n")
    (tmp_path / "key").write_text("token\n")
    with Server(*replies) as server:
        asked = ["--labeller", "endpoint", "--url", server.url, "--model", "m", "--key-file", str(tmp_path / "key")]
        asked += ["--cache", str(tmp_path / "cache")]
        assert main(["label", str(tmp_path / "r.csv"), str(tmp_path / "out.csv"), *asked]) == code
        assert server.headers[0][1]["Authorization"] == "Bearer token"
    shown = capsys.readouterr()
    listed = [line for line in shown.err.splitlines() if line.startswith("case_")]
    assert len(listed) == {0: 0, 2: 1, 1: 2}[code]
    assert len(labels.read(tmp_path / "out.csv")) == 2
    assert "nodule" not in shown.out + shown.err


def test_the_packaged_instructions_ask_for_what_is_parsed():
    for name in prompts.known("labels"):
        said_to = prompts.instructions(name).messages("F", "I", form="line")
        assert "18 values" in said_to[0]["content"] and said_to[1]["content"].count("F") >= 1
