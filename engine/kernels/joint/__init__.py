"""The joint search of an attention decoder and CTC."""
