def write_evidence(asked, out, path): pass
