"""The contract between coordination and storage, and the scenarios that every backend must pass.

`protocol` defines the verbs, `values` the requests and answers, `conformance` the scenarios.
"""
