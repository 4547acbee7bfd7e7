"""What a kubelet does with a manifest, as far as pods need it: a stand-in for tests that have no cluster."""
