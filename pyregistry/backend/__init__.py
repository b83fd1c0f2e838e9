"""The contract between coordination and storage: what a registry backend does, and the scenarios that it must pass.

`protocol` states the verbs, `values` the requests and answers, `conformance` the scenarios.
"""
