"""What is computed: model folders, manifests, spans of layers, tokenizers."""
