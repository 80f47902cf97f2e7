"""Small files of each format, made by hand."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

PAGE = "<html><head><title>{0}</title></head><body><nav>menu</nav><main><p>{1}</p></main></body></html>"


def make_pdf(pages, title="A title", facts=""):
    """A PDF with a line of Latin text per page, after ISO 32000-1."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects.append(f"<< /Title ({title}) {facts} >>")
    data, places = bytearray(b"%PDF-1.4\n"), []
    for number, written in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{written}\nendobj\n".encode()
    table = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    info = f"/Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R"
    return bytes(data + f"trailer\n<< {info} >>\nstartxref\n{table}\n%%EOF\n".encode())


def make_warc(texts):
    """One response per text; a list of records."""
    records = []
    for number, text in enumerate(texts):
        body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE.format(number, text).encode()
        header = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://x/{number}\r\n"
            f"WARC-Date: 2026-01-02T03:04:05Z\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        records.append(header.encode() + body + b"\r\n\r\n")
    return records


def make_parquet(texts):
    written = io.BytesIO()
    pq.write_table(pa.table({"t": texts}), written, row_group_size=7)
    return written.getvalue()


def make_file(name, texts):
    """(options of the source, name of a file, its content) of a format that holds the texts."""
    lines = "".join(f"{text}\n" for text in texts)
    fields = {"fields": {"text": "t"}}
    if name == "jsonl":
        return fields, "a.jsonl", "".join(json.dumps({"t": text}) + "\n" for text in texts).encode()
    if name == "csv":
        return fields, "a.csv", ("t,n\n" + "".join(f'"{text}",1\n' for text in texts)).encode()
    if name == "tsv":
        return fields, "a.tsv", ("t\tn\n" + "".join(f"{text}\t1\n" for text in texts)).encode()
    if name == "parquet":
        return fields, "a.parquet", make_parquet(texts)
    if name == "warc":
        return {}, "a.warc.gz", b"".join(gzip.compress(record, mtime=0) for record in make_warc(texts))
    if name == "pdf":
        return {}, "a.pdf", make_pdf([text.encode("ascii", "ignore").decode() for text in texts])
    if name == "html":
        return {}, "a.html", PAGE.format("title", "</p><p>".join(texts)).encode()
    return {}, {"text": "a.txt", "lines": "a.txt", "markdown": "a.md"}[name], lines.encode()
