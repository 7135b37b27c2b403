"""The paper's claims: the rules that decide them, the registry C1 to C53, what they need, and the report."""
