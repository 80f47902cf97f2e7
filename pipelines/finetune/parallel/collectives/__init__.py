"""Operations between ranks: one interface, one backend per file."""
