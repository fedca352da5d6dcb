# frozen_string_literal: true

# Action Mailer's mails into the outbox: lib/outbox_delivery.rb, switched on in config/initializers/outbox.rb:
#
#   require "outbox_delivery"
#   ActionMailer::Base.add_delivery_method :outbox, OutboxDelivery, kind: "mail" # of mails that name none
#   ActionMailer::Base.delivery_method = :outbox unless Rails.env.test?
#
# Call deliver_now inside the transaction: the mail is sent if that commits, and only then. Outside of one it is
# enqueued at once. Not deliver_later: its job runs on its own, maybe for an order that never was, maybe never.
#
# Arguments of the outbox are headers of the mail: headers["X-Hapax-Dedup-Key"] = "order-#{order.id}-confirmed".
# deliver_now.delivery_method.id is the message's id. What the outbox refuses raises ActiveRecord::StatementInvalid;
# its cause (a PG::Error) has SQLSTATE and hint.
class OutboxDelivery
  ARGUMENTS = %w[kind dedup_key dedup_ttl priority not_before expires_at ordering_key on_doubt route tenant].freeze

  attr_reader :settings, :id

  def initialize(settings)
    @settings = settings
  end

  def deliver!(mail)
    # A refusal has aborted the transaction. Hidden, it would let the block end well, and COMMIT would roll back.
    mail.raise_delivery_errors = true
    message = mail.dup # the caller's keeps its headers: it may be delivered again
    message.ready_to_send!
    arguments = take_arguments(message.header)
    # Made up by Mail, before any delivery method is asked. Hapax's own begins with the id.
    message.header["Message-ID"] = nil if message.message_id.end_with?(".mail")
    raw = message.header.encoded << "\r\n" << message.body.encoded(message.content_transfer_encoding)
    @id = insert({ "kind" => settings[:kind], **arguments, "sender" => mail.smtp_envelope_from, "raw_message" => raw,
                   "recipients" => PG::TextEncoder::Array.new.encode(mail.smtp_envelope_to.uniq) })
  end

  private

  def take_arguments(header)
    fields = header.fields.select { |field| field.name.downcase.start_with?("x-hapax-") }
    fields.each { |field| header[field.name] = nil }
    fields.to_h do |field|
      name = field.name.downcase.delete_prefix("x-hapax-").tr("-", "_")
      raise ArgumentError, "#{field.name} is not an argument of the outbox" unless ARGUMENTS.include?(name)

      [name, field.decoded]
    end
  end

  # ApplicationRecord, or whichever class has the database of your orders: its connection holds the open transaction.
  def insert(values)
    binds = values.map do |name, value|
      type = name == "raw_message" ? ActiveModel::Type::Binary.new : ActiveModel::Type::String.new
      ActiveRecord::Relation::QueryAttribute.new(name, value, type)
    end
    places = Array.new(binds.size) { |index| "$#{index + 1}" }
    sql = "INSERT INTO outbox.notification (#{values.keys.join(', ')}) VALUES (#{places.join(', ')})"
    ApplicationRecord.connection.insert(sql, "Outbox", "id", nil, nil, binds)
  end
end
