"""Texts -> signals: numbers that say what a document looks like. Rules compare them with limits.

characters.py  the classes of a character          batch.py       texts as one array
words.py       words and tokens                    lines.py       lines and paragraphs
repetition.py  repeated n-grams                    web_lines.py   the line rules of C4
table.py       every signal, and what computes it
"""
