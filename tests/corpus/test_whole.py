"""One document per file, lines of text, and Delta tables. Expected values are written by hand."""

import gzip
import io

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.corpus.listing import list_files
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.readers.delta import read_partition
from pipelines.corpus.readers.files import read_slice
from pipelines.corpus.readers.format import Slice
from pipelines.storage import locate
from tests.corpus.documents import PAGE, make_pdf
from tests.corpus.reading import make_source, read_bytes, texts


def read_one(data, **knobs):
    (record,) = read_bytes(data, make_source(**knobs))
    return record


def test_html_file_gives_main_content_and_title():
    data = PAGE.format("标题", "正文第一段。</p><p>第二段。" * 3).encode()
    columns = read_one(data, format="html").columns
    assert "menu" not in columns.text
    assert columns.text.startswith("正文第一段。")
    assert columns.metadata == {"title": "标题"}
    everything = read_one(data, format="html", options={"main_content": False}).columns
    assert everything.text.startswith("menu")


def test_deeply_nested_html_is_read():
    record = read_one(b"<div>" * 100_000 + b"deep", format="html")
    assert record.reason is not None or "deep" in record.columns.text


@pytest.mark.parametrize(
    ("content", "text", "title"),
    [
        ("# 标题 #\n\n正文", "# 标题 #\n\n正文", "标题"),
        ('---\r\ntitle: "甲: 乙"\r\nx: 1\r\n---\r\nbody', "body", "甲: 乙"),
        ("---\nx: 1\n---\n# Head\n", "# Head", "Head"),
        ("---\nno end", "---\nno end", None),
        ("text\n---\ntitle: no\n---\n", "text\n---\ntitle: no\n---", None),
    ],
)
def test_markdown_keeps_text_and_finds_the_title(content, text, title):
    columns = read_one(content.encode(), format="markdown").columns
    assert (columns.text, (columns.metadata or {}).get("title")) == (text, title)


def test_pdf_gives_pages_title_and_number():
    columns = read_one(make_pdf(["First page.", "Second page."]), format="pdf").columns
    assert columns.text == "First page.\n\nSecond page."
    assert columns.metadata == {"title": "A title", "pages": "2"}


@pytest.mark.parametrize(
    ("written", "created"),
    [
        ("D:20220531112935-00'00'", "2022-05-31T11:29:35-00:00"),
        ("D:20220531112935+08'00", "2022-05-31T11:29:35+08:00"),
        ("20220531112935Z", "2022-05-31T11:29:35Z"),
        ("D:202205311129", "2022-05-31T11:29:00"),
        ("D:202205", "2022-05"),
        ("D:2022", "2022"),
        ("D:20221331", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_pdf_gives_author_and_date(written, created):
    data = make_pdf(["Text."], facts=f"/Author (Li Lei) /CreationDate ({written})")
    expected = {"title": "A title", "author": "Li Lei", "pages": "1"}
    if created:
        expected["created"] = created
    assert read_one(data, format="pdf").columns.metadata == expected


@pytest.mark.parametrize(
    ("head", "facts"),
    [
        ('<link rel="canonical" href="https://a.cn/1?x=1&amp;y=2">', {"canonical": "https://a.cn/1?x=1&y=2"}),
        ('<meta property="article:published_time" content=" 2024-01-02T03:04:05Z ">', "2024-01-02T03:04:05Z"),
        ('<meta itemprop="datePublished" content="2024-01-02">', "2024-01-02"),
        ('<meta name="date" content="2024年1月2日">', "2024年1月2日"),
        ('<link rel="canonical"><meta name="date" content="">', {}),
        (f'<link rel="canonical" href="https://a.cn/{"x" * 3_000}">', {}),
    ],
)
def test_html_gives_canonical_url_and_date(head, facts):
    data = PAGE.format("t</title>" + head + "<title>", "text").encode()
    metadata = read_one(data, format="html").columns.metadata
    del metadata["title"]
    assert metadata == ({"published": facts} if isinstance(facts, str) else facts)


@pytest.mark.parametrize(
    ("data", "limit", "reason"),
    [
        (b"no pdf", 10_000, "pdf: "),
        (b"", 10_000, "pdf: "),
        (make_pdf(["a"])[:200], 10_000, "pdf: "),
        (make_pdf(["a" * 500]), 400, "too long"),
    ],
)
def test_unreadable_pdf_is_one_row(data, limit, reason):
    assert read_one(data, format="pdf", max_record_bytes=limit).reason.startswith(reason)


def test_lines_are_documents_with_their_places():
    data = "\ufeff第一\r\n\n  \nsecond\n".encode() + b"\xff\n" + b"x" * 21 + b"\nlast"
    records = read_bytes(data, make_source(format="lines", max_record_bytes=20))
    assert texts(records) == ["第一", "second", "last"]
    assert [record.line for record in records] == [1, 4, 5, 6, 7]
    assert [record.reason and record.reason[:8] for record in records] == [
        None,
        None,
        "invalid ",
        "too long",
        None,
    ]


@pytest.mark.parametrize("name", ["text", "markdown"])
@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16", "shift_jis"])
def test_encoding_is_named_or_detected(name, encoding):
    text = {"shift_jis": "これは日本語の文章です。", "big5": "這是一個繁體中文的句子，"}.get(
        encoding, "这是一个中文句子，"
    ) * 9
    data = text.encode(encoding)
    assert read_one(data, format=name).reason
    assert read_one(data, format=name, options={"encoding": encoding}).columns.text == text
    assert read_one(data, format=name, options={"encoding": "detect"}).columns.text == text


def test_bytes_outside_the_named_encoding_are_reported():
    record = read_one(b"ab\xff", options={"encoding": "gb18030"})
    assert record.reason == "encoding: byte 0xff at 2 of the file is not valid gb18030"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"format": "text", "options": {"encoding": "utf-9"}}, "options.encoding must be detect or an encod"),
        (
            {"format": "text", "options": {"encoding": "base64"}},
            "options.encoding must be detect .* 'base64'",
        ),
        (
            {"format": "html", "options": {"main_content": 1}},
            "options.main_content must be true or false, got 1",
        ),
        ({"format": "warc", "fields": {"text": "html"}}, "a warc record has only the field text, url"),
        ({"format": "delta"}, "delta needs fields.text"),
        (
            {"format": "delta", "fields": {"text": "t"}, "options": {"version": -1}},
            "options.version must be null or a number from 0 on, got -1",
        ),
    ],
)
def test_invalid_options_name_the_broken_rule(knobs, message):
    with pytest.raises(ValueError, match=message):
        make_source(**knobs)


def read_table(source, manifest):
    """Texts and folders of the rows of a Delta source."""
    store, found = locate(source.path)[0], []
    for _, file in manifest.iterate():
        for record in read_slice(store, source, Slice(file.path, 0, None)):
            found.append((record.values["t"], record.values["day"]))
    return sorted(found)


def test_delta_source_reads_the_pinned_version(tmp_path):
    path = str(tmp_path / "table")
    write_deltalake(path, pa.table({"t": ["a", "b"], "day": ["一 1", None]}), partition_by=["day"])
    write_deltalake(path, pa.table({"t": ["c"], "day": ["x/y"]}), mode="append", partition_by=["day"])
    DeltaTable(path).delete("t = 'a'")
    fields = {"fields": {"text": "t"}, "metadata": {"day": "day"}}
    newest = make_source(format="delta", path=path, **fields)
    manifest = list_sources([newest])
    assert manifest.versions == {"s": 2}
    assert read_table(newest, manifest) == [("b", None), ("c", "x/y")]
    first = make_source(format="delta", path=path, options={"version": 0}, **fields)
    assert read_table(first, list_sources([first])) == [("a", "一 1"), ("b", None)]
    assert list_sources([first]).digest != manifest.digest


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        ("none", {}, FileNotFoundError, "source 's': no Delta table at .*none; correct the path"),
        ("table", {"version": 9}, ValueError, "source 's': the Delta table at .* choose another version"),
        (
            "vectors",
            {},
            ValueError,
            "source 's': the Delta table at .*vectors uses deletion vectors; rewrite",
        ),
    ],
)
def test_delta_table_that_cannot_be_read_is_an_error(tmp_path, table, options, error, message):
    rows = pa.table({"t": ["a"]})
    write_deltalake(str(tmp_path / "table"), rows)
    write_deltalake(str(tmp_path / "vectors"), rows, configuration={"delta.enableDeletionVectors": "true"})
    source = make_source(format="delta", path=str(tmp_path / table), fields={"text": "t"}, options=options)
    with pytest.raises(error, match=message):
        list_files(source)


def test_partition_values_come_from_the_names_of_folders():
    assert read_partition("/t/a=1%2F2/b=__HIVE_DEFAULT_PARTITION__/c=3.parquet") == {"a": "1/2", "b": None}


@pytest.mark.parametrize("name", ["text", "html", "markdown"])
def test_half_a_document_is_not_a_document(name):
    data = gzip.compress(b"some text")[:-3]
    source = make_source(format=name)
    (record,) = source.reader.read(io.BytesIO(data), Slice("a.gz", 0, None), source.request)
    assert record.reason == "gzip: the file ends before its end mark"
