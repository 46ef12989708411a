/* Empty: bcc's prelude includes it, nothing of ours needs it (see linux/types.h). */
