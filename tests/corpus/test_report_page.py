"""The page of a report: its numbers, its order, and that no text can become part of it."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from pipelines.corpus.report.content import COPY, Amount, Fault, order_reasons
from pipelines.corpus.report.page import MAX_SOURCES, render
from pipelines.corpus.rules import Rules
from tests.corpus.report_content import SHORT_LINES, STOP_LINES, make_content, make_example, make_token_counts

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "nav",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
    ),
    *("p", "a", "i", "dl", "div", "dt", "dd", "small", "span", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "ul", "li", "code", "pre", "svg", "rect", "wbr"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "scope", "viewbox"),
    *("preserveaspectratio", "aria-hidden", "x", "y", "width", "height", "dir"),
}


class Reader(HTMLParser):
    """Elements with attributes, ids, and the text of the cells of each table row."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.words = [], [], []
        self._open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append([])
        if tag not in ("meta", "wbr", "rect"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "th" in self._open or "td" in self._open:
            self.rows[-1][-1].append(data)

    @property
    def text(self):
        return "".join(self.words)

    def find_rows(self, *first):
        """Rows whose first piece of text is one of these."""
        texts = [["".join(cell) for cell in row] for row in self.rows]
        return [row for row in texts if row and row[0].startswith(first)]


def read(**values):
    return Reader(render(make_content(**values)))


def test_rules_stand_in_their_order_with_counts():
    rows = read().rows
    start = next(number for number, row in enumerate(rows) if row[0] == ["records read"])
    assert [[cell and cell[0] for cell in row] for row in rows[start : start + 6]] == [
        ["records read", "20", "20,800"],
        ["quarantine", "4", "-"],
        ["language", "3", "1,500"],
        ["fineweb/", "2", "300"],
        ["exact_", "1", "5,000"],
        ["kept", "10", "14,000"],
    ]


def test_rules_that_dropped_nothing_are_named():
    text = read(outcomes={("web", None): Amount(9, 9), ("web", SHORT_LINES): Amount(1, 1)}, faults=[]).text
    assert "8 rules dropped nothing" in text
    assert f"{STOP_LINES}: at least 0.12 is kept" in text
    assert "too_short: at least 20 characters are kept" in text
    assert f"{SHORT_LINES}: at most" not in text  # it dropped something, so it is in the table


def test_each_source_has_its_own_rules():
    rows = read().find_rows("records read")
    assert [row[1:] for row in rows] == [
        ["20100 %", "20,800100 %"],
        ["18100 %", "10,800100 %"],
        ["2100 %", "10,000100 %"],
    ]


def test_removed_paragraphs_go_before_the_rules():
    removed = {"web": {"paragraphs": 1_006, "documents": 4, "read_chars": 11_000, "kept_chars": 10_800}}
    rows = read(removed=removed, faults=[]).rows
    texts = [["".join(cell) for cell in row][:3] for row in rows]
    explained = "paragraphs removed1,006 in 4 documents, which other documents have"
    start = texts.index(["records read", "16100 %", "21,000100 %"])
    assert texts[start + 1] == [explained, "00 %", "2000.95 %"]
    assert texts[start + 2][0].startswith("language")
    of_sources = [row[2] for row in texts[start + 1 :] if row[0] in ("records read", explained)]
    assert of_sources == ["2000.95 %", "11,000100 %", "2001.8 %", "10,000100 %"]


def test_order_of_rules_is_the_order_of_decision():
    rules = Rules(languages=("en",), presets=("fineweb", "c4@paper"))
    found = ["near_duplicate", "word_list", "contaminated", "language", COPY]
    ordered = order_reasons(rules, found)
    assert ordered[:5] == ["empty", "too_short", "contaminated", "language", STOP_LINES]
    assert ordered[-4:] == ["c4@paper/min_c4_paper_num_sentences", "word_list", COPY, found[0]]
    assert "language" not in order_reasons(Rules(), ())


def test_untrusted_text_stays_text():
    examples = {ATTACK: [make_example(ATTACK, source=ATTACK, file=ATTACK, url=ATTACK, doc_id=ATTACK)]}
    found = read(
        title=ATTACK,
        examples=examples,
        outcomes={(ATTACK, None): Amount(1, 1), (ATTACK, ATTACK): Amount(1, 1), ("b", None): Amount(1, 1)},
        languages={(True, ATTACK): Amount(1, 1)},
        faults=[Fault(source=ATTACK, kind=ATTACK, num_records=1, file=ATTACK, offset=0)],
    )
    assert {element for element, _ in found.elements} <= ELEMENTS
    assert {key for _, attributes in found.elements for key in attributes} <= ATTRIBUTES
    assert found.text.count(ATTACK) >= 12


def test_nothing_is_loaded_from_elsewhere():
    text = render(make_content())
    found = Reader(text)
    links = [attributes["href"] for _, attributes in found.elements if "href" in attributes]
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    assert len(links) > 8
    assert {link.removeprefix("#") for link in links} <= ids
    assert "https://example.org/zh" in found.text  # shown, but no link
    assert not re.search(r"url\(|@import|src=|javascript:", text)


def test_policy_allows_only_the_own_style():
    text = render(make_content())
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    metas = [attributes for element, attributes in Reader(text).elements if element == "meta"]
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert {"name": "distributary:digest", "content": "cd" * 16} in metas


def test_control_characters_do_not_reach_the_page():
    text = render(make_content(examples={COPY: [make_example("a\x00b\x1b[31m\u202egnp.exe\x85")]}))
    assert "a\ufffdb\ufffd[31m\ufffdgnp.exe\ufffd" in text


def test_chinese_names_and_texts_are_shown():
    text = render(make_content(title="网页语料", outcomes={("中文网页", None): Amount(1, 9)}))
    assert "<h1>Corpus report: 网页语料</h1>" in text
    assert "中文网页" in text
    assert "今天天气很好。" in text


def test_long_examples_are_cut_with_a_mark():
    text = read().text
    assert "Again. " * 60 + "\u2026" in text
    assert "今天天气很好。\u2026" not in text
    assert "stays as " + "ef" * 16 in text


def test_a_corpus_without_documents_has_a_page():
    empty = {"outcomes": {}, "lengths": {}, "languages": {}, "clusters": {}, "faults": [], "examples": {}}
    text = read(**empty).text
    for expected in ("No source has a record.", "There are no documents.", "No record is in quarantine."):
        assert expected in text
    assert read(**empty).find_rows("kept") == [["kept", "0-", "0-"]]


def test_evaluation_sets_have_a_line_each():
    counts = {"records": 20, "too_short": 3, "records_hit": 5, "documents": 7, "exceeding": 6}
    page = read(contamination={ATTACK: counts, "mmlu": {**counts, "too_short": 0}})
    assert page.find_rows("mmlu") == [["mmlu", "20", "5", "76 above the limits"]]
    assert page.find_rows(ATTACK)[0][1] == "203 too short to look for"
    assert "corpus.decontamination names no evaluation set" in read(contamination=None).text


def test_what_was_not_measured_is_said():
    text = read(languages=None, searched=False, tokens=None).text
    assert "Languages were not measured" in text
    assert "They were not looked for" in text
    assert "Tokens are not known: no tokenizer." in text
    assert "tokens kept" not in text
    assert "There are none." in read(searched=True).text


def test_tokens_are_shown_by_split():
    found = read(tokens={"validation": 5, "train": 1_234})
    assert "tokens in sequences" in found.text
    assert "1,239" in found.words
    assert "train 1,234, validation 5" in found.words


def test_tokens_are_estimated_by_rule_and_source():
    found = read(token_counts=make_token_counts())
    last = [
        [row[0], row[-1]]
        for row in found.find_rows("records read", "quarantine", "lang", SHORT_LINES, "exact", "kept")
    ]
    assert last[:6] == [
        ["records read", "about 6,320"],  # 6,325 with three digits, half to even
        ["quarantine", "-"],
        ["languageanother language, or not sure enough", "about 1,500"],
        [f"{SHORT_LINES}at most 0.67 is kept", "about 75"],
        ["exact_duplicatethe same text is kept elsewhere", "about 1,250"],
        ["kept", "about 3,500"],
    ]
    of_web, of_news = [row[-1] for row in found.find_rows("kept")][1:]
    assert (of_web, of_news) == ("about 2,250", "about 1,250")
    assert [row[-1] for row in found.find_rows("web", "news")[:2]] == ["about 2,250", "about 1,250"]
    assert "about 55 % of all tokens" in found.text
    assert "Tokens are those of the tokenizer of gpt. \u201cAbout\u201d is an estimate" in found.text


def test_tokens_of_sequences_are_exact():
    kept = {None: 3_511, "news": 1_261}
    found = read(tokens={"train": 3_511}, token_counts=make_token_counts(kept=kept))
    assert [row[-1] for row in found.find_rows("kept")] == ["3,511", "about 2,250", "1,261"]
    # Kept ones are exact, dropped ones are not, so neither is the sum.
    assert found.find_rows("records read")[0][-1] == "about 6,340"
    assert "Numbers without \u201cabout\u201d are exact" in found.text


def test_removed_paragraphs_have_tokens_too():
    # 10,800 characters of web are left and have 3,825 tokens; 200 were removed: 70.8.
    removed = {"web": {"paragraphs": 6, "documents": 4, "read_chars": 11_000, "kept_chars": 10_800}}
    found = read(removed=removed, token_counts=make_token_counts())
    of_all, of_web = found.find_rows("paragraphs removed")
    assert of_web[-1] == "about 71"
    assert of_all[-1] == "about 61"  # 200 of 20,800 characters with 6,325 tokens
    assert [row[-1] for row in found.find_rows("records read")][:2] == ["about 6,390", "about 3,900"]


def test_fifty_sources_and_more_are_listed():
    outcomes = {(f"source_{number}", None): Amount(number + 1, 9) for number in range(MAX_SOURCES + 3)}
    found = read(outcomes=outcomes, faults=[])
    assert len(found.find_rows("source_")) == MAX_SOURCES + 3
    assert found.find_rows("source_")[0][0] == f"source_{MAX_SOURCES + 2}"
    assert len(found.find_rows("records read")) == MAX_SOURCES + 1
    assert f"The rules of the {MAX_SOURCES} largest sources are shown." in found.text


def test_rare_languages_are_added_up():
    languages = {(True, f"l{number:02}"): Amount(100 - number, 1) for number in range(25)}
    rows = read(languages={**languages, (False, "l24"): Amount(1, 1)}).find_rows("l", "5 other")
    assert [row[0] for row in rows if row[0] != "language"][-2:] == ["l19", "5 other languages"]
    assert rows[-1][1:3] == [str(sum(range(76, 81))), "1"]


def test_clusters_are_grouped_by_size():
    clusters = {
        (COPY, 2): 7,
        (COPY, 4): 1,
        (COPY, 5): 2,
        (COPY, 8): 1,
        (COPY, 9): 1,
        ("near_duplicate", 3): 2,
    }
    rows = [row for row in read(clusters=clusters).rows if len(row) == 3]
    texts = [["".join(cell) for cell in row] for row in rows]
    start = texts.index(["documents in a cluster", "clusters", "documents"])
    assert texts[start + 1 : start + 5] == [
        ["2", "7", "14"],
        ["4", "1", "4"],
        ["5 to 8", "3", "18"],
        ["9 to 16", "1", "9"],
    ]


def test_lengths_have_no_gap():
    found = read(lengths={(True, 0): Amount(1, 0), (False, 4): Amount(2, 20)})
    rows = [["".join(cell) for cell in row] for row in found.rows]
    start = rows.index(["characters", "kept", "dropped", "characters kept"])
    assert [row[:3] for row in rows[start + 1 : start + 6]] == [
        ["0", "1", "0"],
        ["1", "0", "0"],
        ["2 to 3", "0", "0"],
        ["4 to 7", "0", "0"],
        ["8 to 15", "0", "2"],
    ]
