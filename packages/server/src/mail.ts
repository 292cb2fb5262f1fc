/** Outgoing e-mail: by SMTP, or as files where no mail server is set. */
import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import nodemailer from 'nodemailer';

export interface Mail {
  readonly to: string;
  readonly subject: string;
  readonly text: string;
}

export interface Mailer {
  /** Resolves once the server has taken the mail, or the file is written; rejects otherwise, within `sendMsMax`. */
  send(mail: Mail): Promise<void>;
}

export interface MailerOptions {
  /** `smtp://` or `smtps://`, with user and password where the server wants them; null: files. */
  readonly smtpUrl: string | null;
  readonly from: string | null;
  readonly dataDir: string;
  readonly log: { info(facts: object, message: string): void };
  readonly sendMsMax?: number;
}

/** Without SMTP the mails are written to `<dataDir>/mail/` for their owner's eyes only, and the log says so once. */
export function createMailer({ smtpUrl, from, dataDir, log, sendMsMax = 30_000 }: MailerOptions): Mailer {
  // Nothing in a mail may name a file or a URL to be read into it.
  const closed = { disableFileAccess: true, disableUrlAccess: true };
  const sender = { from: from ?? 'tolem@localhost' };
  if (smtpUrl !== null) {
    const transport = nodemailer.createTransport({ url: smtpUrl, ...closed }, sender);
    return {
      async send(mail) {
        await transport.sendMail({ ...addressed(mail), signal: AbortSignal.timeout(sendMsMax) });
      },
    };
  }

  const directory = join(dataDir, 'mail');
  log.info({ directory }, 'TOLEM_SMTP_URL is not set: e-mails are not sent, they are written as files');
  const composer = nodemailer.createTransport({ streamTransport: true, buffer: true, ...closed }, sender);
  return {
    async send(mail) {
      const { message } = await composer.sendMail(addressed(mail));
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const name = `${new Date().toISOString().replaceAll(':', '-')}-${randomBytes(4).toString('hex')}.eml`;
      await writeFile(join(directory, name), message as Buffer, { mode: 0o600, flag: 'wx' });
    },
  };
}

/** One address, whatever characters are in it: a text would be read as a list. */
function addressed({ to, ...mail }: Mail) {
  return { ...mail, to: { name: '', address: to } };
}
